//! What a replica's URL means.

use std::path::PathBuf;

use super::options::{OptionError, StoreOptions};

/// A URL, read.
#[derive(Debug, Clone, PartialEq)]
pub enum Location {
    S3 {
        bucket: String,
        /// Without slashes at its ends; may be empty.
        prefix: String,
    },
    Directory(PathBuf),
    /// Shared by everything in this process that names it.
    Memory(String),
}

impl Location {
    /// What shares a line and a bill with others of the same name.
    pub fn store(&self, options: &StoreOptions) -> String {
        match self {
            Location::S3 { bucket, .. } => format!("{}/{bucket}", options.endpoint.as_deref().unwrap_or("s3:/")),
            Location::Directory(_) => "directories".to_owned(),
            Location::Memory(name) => format!("memory://{name}"),
        }
    }
}

/// A URL, or options, that no store can be opened with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{url}: {problem}")]
pub struct UrlError {
    pub url: String,
    pub problem: UrlProblem,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlProblem {
    #[error("{0}:// is not known; a replica is s3://bucket/prefix, file:///directory or the path of a directory")]
    Scheme(String),
    #[error("an S3 URL is s3://bucket/prefix; {0}")]
    S3(&'static str),
    #[error("a directory is file:///absolute/path or a plain path")]
    File,
    #[error("a memory store needs a name: memory://name")]
    Memory,
    #[error(transparent)]
    Option(#[from] OptionError),
}

/// Reads a URL; its parameters are laid over `options`.
pub fn parse(url: &str, options: &StoreOptions) -> Result<(Location, StoreOptions), UrlError> {
    let failed = |problem| UrlError { url: without_query(url).to_owned(), problem };
    let mut options = options.clone();
    let location = match url.split_once("://") {
        // A plain path may hold any character, a question mark too.
        None => Location::Directory(std::path::absolute(url).map_err(|_| failed(UrlProblem::File))?),
        Some((scheme, _)) => {
            let (base, query) = url.split_once('?').unwrap_or((url, ""));
            for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
                options.set(&name, &value).map_err(|e| failed(e.into()))?;
            }
            by_scheme(scheme, base).map_err(failed)?
        }
    };
    options.check().map_err(|e| failed(e.into()))?;
    let store = match location {
        Location::S3 { .. } => return Ok((location, options)),
        Location::Directory(_) => "a directory",
        Location::Memory(_) => "memory",
    };
    match options.only_for_s3() {
        Some(name) => Err(failed(OptionError::Unused { name, store }.into())),
        None => Ok((location, options)),
    }
}

fn by_scheme(scheme: &str, base: &str) -> Result<Location, UrlProblem> {
    let rest = &base[scheme.len() + "://".len()..];
    match scheme {
        "s3" => {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            s3(bucket, prefix.trim_matches('/'))
        }
        "file" => {
            let path = url::Url::parse(base).ok().and_then(|u| u.to_file_path().ok());
            path.map(Location::Directory).ok_or(UrlProblem::File)
        }
        "memory" if rest.is_empty() => Err(UrlProblem::Memory),
        "memory" => Ok(Location::Memory(rest.to_owned())),
        other => Err(UrlProblem::Scheme(other.to_owned())),
    }
}

fn s3(bucket: &str, prefix: &str) -> Result<Location, UrlProblem> {
    let good_byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b':');
    if bucket.is_empty() || bucket.len() > 255 || !bucket.bytes().all(good_byte) {
        return Err(UrlProblem::S3("the bucket's name is missing or has characters that none may have"));
    }
    // S3 takes a key of 1024 bytes; ours below the prefix may have 512.
    if prefix.len() > 500 {
        return Err(UrlProblem::S3("a prefix has at most 500 bytes"));
    }
    let good_part = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.chars().any(char::is_control);
    if !prefix.is_empty() && !prefix.split('/').all(good_part) {
        return Err(UrlProblem::S3("no part of the prefix may be empty, '.' or '..'"));
    }
    Ok(Location::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
}

/// A URL for messages: whatever was written into its parameters stays out of them.
fn without_query(url: &str) -> &str {
    match url.contains("://") {
        true => url.split_once('?').map_or(url, |(base, _)| base),
        false => url,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<(Location, StoreOptions), UrlError> {
        parse(url, &StoreOptions::default())
    }

    /// Every documented shape of a URL reads as documented.
    #[test]
    fn shapes() {
        let (s3, options) = read("s3://b/p/q/?endpoint=http%3A%2F%2Flocalhost:9000&region=eu&path-style=true").unwrap();
        assert_eq!(s3, Location::S3 { bucket: "b".into(), prefix: "p/q".into() });
        assert_eq!(options.endpoint.as_deref(), Some("http://localhost:9000"));
        assert_eq!((options.region.as_deref(), options.path_style), (Some("eu"), Some(true)));
        assert_eq!(read("s3://b").unwrap().0, Location::S3 { bucket: "b".into(), prefix: "".into() });
        assert_eq!(read("file:///a%20b/c").unwrap().0, Location::Directory("/a b/c".into()));
        assert_eq!(read("/x?y").unwrap().0, Location::Directory("/x?y".into()));
        assert!(matches!(read("x/y").unwrap().0, Location::Directory(p) if p.is_absolute() && p.ends_with("x/y")));
        assert_eq!(read("memory://m").unwrap().0, Location::Memory("m".into()));
    }

    /// What is misspelt is refused by name, never guessed or ignored.
    #[test]
    fn refusals() {
        let message = read("s3://b/p?endpont=x").unwrap_err().to_string();
        assert!(message.contains("endpont") && message.contains("\"endpoint\""), "{message}");
        for bad in
            ["s3://", "s3:///p", "s3://b/../x", "s3://b/a//b", "gs://b/p", "file://host/x", "memory://", "s3://a b/x"]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
        let unused = read("file:///x?region=eu").unwrap_err();
        assert!(matches!(unused.problem, UrlProblem::Option(OptionError::Unused { name: "region", .. })));
    }

    /// A secret that someone did write into a URL is refused and not repeated.
    #[test]
    fn a_secret_in_a_url_is_not_repeated() {
        let message = read("s3://b/p?secret-access-key=hunter2").unwrap_err().to_string();
        assert!(message.contains("secret-access-key") && !message.contains("hunter2"), "{message}");
    }
}
