//! A database that keeps a ledger of itself, and random transactions on it.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::app::App;

/// Triggers keep the sums, so that any half-applied transaction shows.
pub const SCHEMA: &str = "CREATE TABLE ledger(id INTEGER PRIMARY KEY, seq, n, total);
INSERT INTO ledger VALUES (1, 0, 0, 0);
CREATE TABLE t(id INTEGER PRIMARY KEY, k, v TEXT);
CREATE INDEX t_k ON t(k, v);
CREATE TABLE filler(v);
CREATE TRIGGER ti AFTER INSERT ON t BEGIN UPDATE ledger SET n = n + 1, total = total + new.k * length(new.v); END;
CREATE TRIGGER td AFTER DELETE ON t BEGIN UPDATE ledger SET n = n - 1, total = total - old.k * length(old.v); END;";

/// 1 where the ledger fits the content.
pub const CHECK: &str = "SELECT n = (SELECT count(*) FROM t) AND total = (SELECT ifnull(sum(k * length(v)), 0) FROM t)
AND n = (SELECT count(*) FROM t INDEXED BY t_k WHERE k >= 0) FROM ledger";

pub const SEQ: &str = "SELECT seq FROM ledger";

/// `CREATE TRIGGER` contains semicolons, so it goes line by line.
pub fn create(app: &mut App) {
    for line in SCHEMA.lines() {
        app.sql(line);
    }
}

pub struct Workload {
    pub random: StdRng,
    ids: i64,
}

impl Workload {
    pub fn new(seed: u64, ids: i64) -> Workload {
        Workload { random: StdRng::seed_from_u64(seed), ids }
    }

    fn change(&mut self) -> String {
        let id = self.random.random_range(0..self.ids);
        if self.random.random_bool(0.3) {
            return format!("DELETE FROM t WHERE id = {id};");
        }
        let (length, word) = (self.random.random_range(1..60), self.random.random::<u32>());
        let k = self.random.random_range(0..100);
        format!(
            "DELETE FROM t WHERE id = {id}; INSERT INTO t VALUES ({id}, {k}, replace(hex(zeroblob({length})), '00', '{word:08x}'));"
        )
    }

    fn changes(&mut self, count: usize) -> String {
        (0..count).map(|_| self.change()).collect()
    }

    /// One transaction: small or large, with rolled back parts, or rolled back whole. `true` when it commits.
    pub fn transaction(&mut self) -> (String, bool) {
        let mut sql = String::from("BEGIN IMMEDIATE; ");
        if self.random.random_bool(0.15) {
            let count = self.random.random_range(1..40);
            sql += &format!("SAVEPOINT a; {} ROLLBACK TO a; RELEASE a; ", self.changes(count));
        }
        if self.random.random_bool(0.05) {
            let (rows, size) = (self.random.random_range(1..300), self.random.random_range(10..2000));
            sql += &format!(
                "INSERT INTO filler WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < {rows}) SELECT hex(randomblob({size})) FROM c; "
            );
        } else if self.random.random_bool(0.05) {
            sql += "DELETE FROM filler; ";
        }
        let count = *[1, 1, 2, 3, 5, 8, 60].get(self.random.random_range(0..7)).expect("in range");
        sql += &self.changes(count);
        if self.random.random_bool(0.1) {
            return (sql + "ROLLBACK", false);
        }
        (sql + "UPDATE ledger SET seq = seq + 1; COMMIT", true)
    }
}
