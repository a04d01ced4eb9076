//! Keys of Litestream without a counterpart, by where they stand, and what to do instead.

const COMPACTION: &str = "left out: compaction has no settings here, and `retention` alone says what stays";
const CHECKPOINTS: &str = "left out: when the WAL is folded in needs no setting here, see docs/sqlite.md";
const PROOFS: &str =
    "left out: proofs go by the clock here, such as `schedule: { verify: 0 4 * * * }` with `verify: { deep: true }`";
const HEARTBEAT: &str =
    "left out: let the monitoring ask /readyz of `listen`, or alert on the metrics, see docs/metrics.md";
const SIGNED: &str =
    "left out: every body is signed; `checksum` says whether a checksum of its own goes along, see docs/stores.md";
const PIECES: &str = "left out: large objects go up in parts of 8 MiB, three at a time";

/// At the top.
pub const TOP: &[(&str, &str)] = &[
    (
        "exec",
        "left out: start the application with `replicate run --config FILE -- COMMAND`, which passes signals on, ships \
         everything at its end and returns its exit code",
    ),
    ("logging", "left out: REPLICATE_LOG sets the level and REPLICATE_LOG_FORMAT=json the form; logs go to stderr"),
    ("levels", COMPACTION),
    ("l0-retention", COMPACTION),
    ("l0-retention-check-interval", COMPACTION),
    ("verify-compaction", "left out: `verify --deep` and drills prove every commit, whatever was merged"),
    ("validation", PROOFS),
    ("heartbeat-url", HEARTBEAT),
    ("heartbeat-interval", HEARTBEAT),
    ("socket", "left out: `run` always listens on a socket in the state directory, for its own user only"),
    ("mcp-addr", "left out: commands have `--json` for programs"),
    ("shutdown-sync-interval", "left out: the store is asked again by itself until `shutdown-timeout`"),
];

/// In a database.
pub const DATABASE: &[(&str, &str)] = &[
    (
        "meta-path",
        "left out: local state is in .<name>-replicate beside the database; `state-dir` puts it elsewhere. It must not be \
         the directory that Litestream uses",
    ),
    ("checkpoint-interval", CHECKPOINTS),
    ("min-checkpoint-page-count", CHECKPOINTS),
    ("max-checkpoint-page-count", CHECKPOINTS),
    ("truncate-page-n", CHECKPOINTS),
    ("busy-timeout", CHECKPOINTS),
    ("restore-if-db-not-exists", "left out: `replicate run --restore-if-missing` does that for every database"),
    ("watch", "left out: it has no meaning for a single file"),
];

/// In a replica.
pub const REPLICA: &[(&str, &str)] = &[
    ("name", "left out: a replica is known by its URL"),
    ("retention-check-interval", "left out: `run` prunes after each snapshot, and at most once an hour otherwise"),
    ("validation-interval", PROOFS),
    (
        "skip-verify",
        "left out: certificates are always checked; name the authority that signed this one in AWS_CA_BUNDLE",
    ),
    ("sign-payload", SIGNED),
    ("require-content-md5", SIGNED),
    ("part-size", PIECES),
    ("concurrency", PIECES),
    ("auto-recover", "left out: what is damaged is told, and a snapshot is taken that does without it"),
];

/// Types of replicas that there are not, and what can take their place.
pub const TYPES: &[(&str, &str)] = &[
    ("gs", "use the bucket by the S3 protocol: `type: s3`, endpoint https://storage.googleapis.com, and an HMAC key"),
    ("oss", "use the bucket by the S3 protocol: `type: s3` with the S3 endpoint of its region"),
    ("abs", "there is no Azure store: use one that speaks S3, or `type: file` on a mounted share"),
    ("sftp", "there is no SFTP store: use one that speaks S3, or `type: file` and copy that directory to the server"),
    ("webdav", "there is no WebDAV store: use one that speaks S3, or `type: file` on a mounted share"),
    ("nats", "there is no NATS store: use one that speaks S3, or `type: file`"),
];
