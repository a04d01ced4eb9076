//! What `drill` and `verify` say: how a replica is proven.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde_yaml_ng::Value;

use super::ConfigError;
use super::fields::Fields;
use super::units::parse_share;
use crate::drill::Assertion;

const KEYS: [&str; 2] = ["assertions", "scratch"];
const VERIFY_KEYS: [&str; 3] = ["deep", "sample", "max-age"];
const MAX_AGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(365 * 24 * 3600);
const ASSERTION_KEYS: [&str; 3] = ["name", "sql", "expected"];
const MAX_ASSERTIONS: usize = 1000;
const MAX_SQL_CHARS: usize = 64 * 1024;

/// How a drill is done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DrillSettings {
    /// What must be true of a restored database.
    pub assertions: Vec<Assertion>,
    /// Where a database is restored to for a while.
    pub scratch: Option<PathBuf>,
}

/// How a verification by the clock is done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VerifySettings {
    /// Read and recompute everything.
    pub deep: bool,
    /// Of everything, only so much, in hundredths of a percent; another part each day.
    pub sample: Option<u32>,
    /// The newest commit must not be older.
    pub max_age: Option<Duration>,
}

/// Takes the key `verify` out of `fields`; `None` where it is missing. The nearest `verify` says everything.
pub(super) fn read_verify(fields: &mut Fields) -> Result<Option<VerifySettings>, ConfigError> {
    let path = fields.path_to("verify");
    let Some(value) = fields.value("verify") else { return Ok(None) };
    let mut own = Fields::new(value, &path, &VERIFY_KEYS)?;
    let (deep, max_age) = (own.boolean("deep")?.unwrap_or(false), own.duration("max-age", MAX_AGE)?);
    let sample = match own.text("sample")? {
        None => None,
        Some(_) if !deep => {
            return Err(own.error("sample", "is of what `deep: true` reads; say that too, or leave it out"));
        }
        Some(text) => Some(parse_share(&text).map_err(|problem| own.error("sample", problem))?),
    };
    Ok(Some(VerifySettings { deep, sample, max_age }))
}

/// Takes the key `drill` out of `fields`; `None` where it is missing. The nearest `drill` says everything.
pub(super) fn read_drill(fields: &mut Fields) -> Result<Option<DrillSettings>, ConfigError> {
    let path = fields.path_to("drill");
    let Some(value) = fields.value("drill") else { return Ok(None) };
    let mut own = Fields::new(value, &path, &KEYS)?;
    let items = own.list("assertions")?.unwrap_or_default();
    if items.len() > MAX_ASSERTIONS {
        return Err(own.error("assertions", format!("has more than {MAX_ASSERTIONS} entries")));
    }
    let at = own.path_to("assertions");
    let each = items.into_iter().enumerate().map(|(i, item)| assertion(item, &format!("{at}[{i}]")));
    let assertions = each.collect::<Result<_, _>>()?;
    Ok(Some(DrillSettings { assertions, scratch: own.text("scratch")?.map(PathBuf::from) }))
}

fn assertion(item: Value, at: &str) -> Result<Assertion, ConfigError> {
    let example = "write a query, such as \"SELECT count(*) > 0 FROM users\", or { name: …, sql: …, expected: … }";
    let assertion = match item {
        Value::String(sql) => Assertion { name: sql.clone(), sql, expected: None },
        item @ Value::Mapping(_) => {
            let mut fields = Fields::new(item, at, &ASSERTION_KEYS)?;
            let sql = fields.text("sql")?.ok_or_else(|| ConfigError::at(at, "needs the key `sql`"))?;
            Assertion {
                name: fields.text("name")?.unwrap_or_else(|| sql.clone()),
                sql,
                expected: fields.text("expected")?,
            }
        }
        _ => return Err(ConfigError::at(at, format!("is no assertion; {example}"))),
    };
    match assertion.sql.trim().is_empty() || assertion.sql.chars().count() > MAX_SQL_CHARS {
        true => Err(ConfigError::at(at, format!("is empty or longer than {MAX_SQL_CHARS} characters; {example}"))),
        false => Ok(assertion),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Option<DrillSettings>, ConfigError> {
        let value: Value = serde_yaml_ng::from_str(text).unwrap();
        read_drill(&mut Fields::new(value, "defaults", &["drill"])?)
    }

    /// A query alone is an assertion; name and expected value can be said.
    #[test]
    fn every_form_is_understood() {
        let text =
            "drill: {assertions: ['SELECT 1', {name: users, sql: SELECT count(*) FROM u, expected: 5}], scratch: /big}";
        let DrillSettings { assertions, scratch } = read_text(text).unwrap().unwrap();
        assert_eq!(scratch, Some(PathBuf::from("/big")));
        let plain = Assertion { name: "SELECT 1".into(), sql: "SELECT 1".into(), expected: None };
        let named =
            Assertion { name: "users".into(), sql: "SELECT count(*) FROM u".into(), expected: Some("5".into()) };
        assert_eq!(assertions, [plain, named]);
        assert_eq!(read_text("{}").unwrap(), None);
        assert_eq!(read_text("drill: {assertions: []}").unwrap(), Some(DrillSettings::default()));
    }

    /// How a verification is done is read as documented; a sample of nothing is refused.
    #[test]
    fn verifications() {
        let read_text = |text: &str| {
            let value: Value = serde_yaml_ng::from_str(text).unwrap();
            read_verify(&mut Fields::new(value, "defaults", &["verify"])?)
        };
        let settings = read_text("verify: {deep: true, sample: 12.5%, max-age: 1h}").unwrap().unwrap();
        let expected = VerifySettings { deep: true, sample: Some(1250), max_age: Some(Duration::from_secs(3600)) };
        assert_eq!(settings, expected);
        assert_eq!(read_text("{}").unwrap(), None);
        for text in ["{sample: 10%}", "{deep: true, sample: 10}", "{deep: true, sample: 0%}"] {
            let message = read_text(&format!("verify: {text}")).unwrap_err().to_string();
            assert!(message.contains("defaults.verify.sample`"), "{text}: {message}");
        }
    }

    /// What is no assertion is refused with the way to it.
    #[test]
    fn impossible_assertions_are_refused() {
        for (text, at, part) in [
            ("{assertions: SELECT 1}", "defaults.drill.assertions`", "not a list"),
            ("{assertions: [[]]}", "defaults.drill.assertions[0]`", "SELECT count(*)"),
            ("{assertions: ['SELECT 1', ' ']}", "defaults.drill.assertions[1]`", "is empty"),
            ("{assertions: [{name: x}]}", "defaults.drill.assertions[0]`", "needs the key `sql`"),
            ("{assertions: [{sq: x}]}", "defaults.drill.assertions[0].sq`", "\"sql\""),
            ("{asserts: []}", "defaults.drill.asserts`", "\"assertions\""),
        ] {
            let message = read_text(&format!("drill: {text}")).unwrap_err().to_string();
            assert!(message.contains(at) && message.contains(part), "{text}: {message}");
        }
    }
}
