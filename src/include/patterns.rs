//! Which files are wanted: paths and patterns relative to the database's folder; and which are not taken although they match.

use std::path::Path;

use glob::{MatchOptions, Pattern};

use crate::fileset::RelativePath;

/// What is never taken unless `exclude` says so: secrets do not belong into a backup that others may read. Matched against every name
/// on the way to a file.
pub const DEFAULT_EXCLUDES: [&str; 26] = [
    "*.key",
    "*.pem",
    "*.p12",
    "*.pfx",
    "*.p8",
    "*.jks",
    "*.keystore",
    "*.kdbx",
    "*.ppk",
    "*.gpg",
    "*.age",
    "*.secret",
    "id_*",
    ".env",
    ".env.*",
    "*.env",
    ".netrc",
    ".pgpass",
    ".htpasswd",
    ".git-credentials",
    "credentials",
    "credentials.*",
    "secrets",
    "secrets.*",
    ".ssh",
    ".gnupg",
];
/// What a restore keeps of files that it replaces.
const KEPT: &str = ".before-restore-";
/// Patterns in one list.
const MAX_PATTERNS: usize = 100;
/// A star does not cross a slash, and a name that begins with a dot must be named so.
const MATCHING: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };
const EXCLUDING: MatchOptions =
    MatchOptions { case_sensitive: false, require_literal_separator: true, require_literal_leading_dot: false };

/// One thing that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    File(RelativePath),
    /// Every file that matches, and the folder below which all of them are.
    Matching {
        pattern: Pattern,
        below: String,
        /// Names on the way to a match; `None`: any number.
        depth: Option<usize>,
    },
}

/// Why a file is not taken although it matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Excluded {
    /// By one of the patterns that hold unless somebody says otherwise.
    ByDefault(String),
    /// Somebody wants it so.
    AsConfigured,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patterns {
    pub(super) wanted: Vec<Wanted>,
    defaults: Vec<Pattern>,
    exclude: Vec<Pattern>,
    /// Taken although an exclude matches.
    keep: Vec<Pattern>,
}

impl Patterns {
    /// `{name}` and `{stem}` in `include` stand for the name of `database`, with and without what follows its last dot. A pattern in
    /// `exclude` that begins with `!` takes files back in.
    pub fn new(include: &[String], exclude: &[String], database: &Path) -> Result<Patterns, String> {
        if include.len().max(exclude.len()) > MAX_PATTERNS {
            return Err(format!("has more than {MAX_PATTERNS} entries"));
        }
        let name = |part: Option<&std::ffi::OsStr>| part.and_then(|part| part.to_str()).unwrap_or_default().to_owned();
        let (full, stem) = (name(database.file_name()), name(database.file_stem()));
        let wanted = include.iter().map(|text| Wanted::new(text, &full, &stem)).collect::<Result<_, _>>()?;
        let pattern = |text: &str| Pattern::new(text).map_err(|error| format!("{text:?} is no pattern: {error}"));
        let (keep, exclude): (Vec<&str>, Vec<&str>) =
            exclude.iter().map(String::as_str).partition(|text| text.starts_with('!'));
        Ok(Patterns {
            wanted,
            defaults: DEFAULT_EXCLUDES.iter().map(|text| pattern(text)).collect::<Result<_, _>>()?,
            exclude: exclude.into_iter().map(pattern).collect::<Result<_, _>>()?,
            keep: keep.into_iter().map(|text| pattern(&text[1..])).collect::<Result<_, _>>()?,
        })
    }

    pub(super) fn excluded(&self, path: &RelativePath) -> Option<Excluded> {
        let matches = |pattern: &&Pattern| {
            let mut names = path.as_str().split('/');
            pattern.matches_with(path.as_str(), EXCLUDING) || names.any(|name| pattern.matches_with(name, EXCLUDING))
        };
        if self.keep.iter().any(|pattern| matches(&pattern)) {
            return None;
        }
        if self.exclude.iter().any(|pattern| matches(&pattern)) || path.file_name().contains(KEPT) {
            return Some(Excluded::AsConfigured);
        }
        self.defaults.iter().find(matches).map(|pattern| Excluded::ByDefault(pattern.as_str().to_owned()))
    }
}

impl Wanted {
    fn new(text: &str, name: &str, stem: &str) -> Result<Wanted, String> {
        let with = |name: &str, stem: &str| text.replace("{name}", name).replace("{stem}", stem);
        let is_pattern = text.contains(['*', '?', '[']);
        let plain = with(name, stem);
        // Also a pattern is a path: none may lead anywhere else.
        let path: RelativePath = plain.parse().map_err(|error| format!("{error}"))?;
        if !is_pattern {
            return Ok(Wanted::File(path));
        }
        let escaped = with(&Pattern::escape(name), &Pattern::escape(stem));
        let pattern = Pattern::new(&escaped).map_err(|error| format!("{text:?} is no pattern: {error}"))?;
        let is_plain = |part: &&str| !part.contains(['*', '?', '[']);
        let below: Vec<&str> = escaped.split('/').take_while(is_plain).collect();
        let count = escaped.split('/').count();
        let depth = (!escaped.contains("**")).then_some(count);
        Ok(Wanted::Matching { pattern, below: below.join("/"), depth })
    }
}

impl Wanted {
    pub(super) fn matches(&self, path: &str) -> bool {
        match self {
            Wanted::File(own) => own.as_str() == path,
            Wanted::Matching { pattern, .. } => pattern.matches_with(path, MATCHING),
        }
    }
}
