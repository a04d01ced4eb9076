//! What `panel` says: who may see and use the ops panel.

use std::io::Read;
use std::path::PathBuf;

use serde_yaml_ng::Value;

use super::ConfigError;
use super::fields::Fields;
use crate::error::Error;
use crate::store::Secret;

const KEYS: [&str; 6] = ["user", "password", "password-file", "token", "token-file", "hosts"];
const DEFAULT_USER: &str = "admin";
/// Shorter ones are guessed, longer ones are mistakes.
const SECRET_CHARS: std::ops::RangeInclusive<usize> = 8..=1024;
const MAX_HOSTS: usize = 100;

/// A secret, or the file that holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretFrom {
    Text(Secret),
    File(PathBuf),
}

impl SecretFrom {
    /// Reads the file, if it is one; what ends its last line does not count.
    fn secret(&self, key: &str) -> Result<Secret, Error> {
        let path = match self {
            SecretFrom::Text(secret) => return Ok(secret.clone()),
            SecretFrom::File(path) => path,
        };
        let failed = |error| Error::usage(format!("panel.{key}-file: cannot read {}", path.display())).because(error);
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(*SECRET_CHARS.end() as u64 * 4 + 2).read_to_string(&mut text).map_err(failed)?;
        let text = text.trim_end_matches(['\r', '\n']);
        fitting(text)
            .map_err(|problem| Error::usage(format!("panel.{key}-file: what {} holds {problem}", path.display())))
    }
}

fn fitting(text: &str) -> Result<Secret, String> {
    match SECRET_CHARS.contains(&text.chars().count()) && !text.chars().any(char::is_control) {
        true => Ok(Secret::new(text)),
        false => {
            let (low, high) = (SECRET_CHARS.start(), SECRET_CHARS.end());
            Err(format!("must have {low} to {high} characters in one line"))
        }
    }
}

/// What was configured of the panel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PanelConfig {
    /// `panel: off` says no.
    pub is_on: bool,
    pub user: String,
    pub password: Option<SecretFrom>,
    pub token: Option<SecretFrom>,
    /// Names by which browsers reach it, beside those of loopback.
    pub hosts: Vec<String>,
}

impl Default for PanelConfig {
    fn default() -> Self {
        PanelConfig { is_on: true, user: DEFAULT_USER.to_owned(), password: None, token: None, hosts: Vec::new() }
    }
}

/// Who is let in, with files read.
#[derive(Debug, Clone)]
pub struct Credentials {
    pub user: String,
    pub password: Option<Secret>,
    /// For scripts: `Authorization: Bearer …`.
    pub token: Option<Secret>,
}

impl PanelConfig {
    /// Takes the key `panel` out of `fields`.
    pub(super) fn read(fields: &mut Fields) -> Result<PanelConfig, ConfigError> {
        let path = fields.path_to("panel");
        let value = match fields.value("panel") {
            None => return Ok(PanelConfig::default()),
            Some(Value::Bool(false)) => return Ok(PanelConfig { is_on: false, ..PanelConfig::default() }),
            Some(Value::String(text)) if text == "off" => {
                return Ok(PanelConfig { is_on: false, ..PanelConfig::default() });
            }
            Some(value @ Value::Mapping(_)) => value,
            Some(_) => return Err(fields.error("panel", "is neither `off` nor a mapping of keys to values")),
        };
        let mut own = Fields::new(value, &path, &KEYS)?;
        let user = own.text("user")?.unwrap_or_else(|| DEFAULT_USER.to_owned());
        if user.contains(':') || user.chars().any(char::is_control) {
            return Err(own.error("user", "has a colon or a control character, which Basic authentication cannot say"));
        }
        let mut hosts = Vec::new();
        for host in own.list("hosts")?.unwrap_or_default() {
            match host {
                Value::String(name) if is_host(&name) && hosts.len() < MAX_HOSTS => hosts.push(name.to_lowercase()),
                _ => return Err(own.error("hosts", "is a list of at most 100 host names, without scheme and port")),
            }
        }
        let password = secret_from(&mut own, "password")?;
        Ok(PanelConfig { is_on: true, user, password, token: secret_from(&mut own, "token")?, hosts })
    }

    /// Lays over it what the environment says.
    pub(super) fn overlay(&mut self, environment: super::Environment<'_>) -> Result<(), Error> {
        for (name, secret) in [("PASSWORD", &mut self.password), ("TOKEN", &mut self.token)] {
            let said = |name: String| environment(&name).filter(|text| !text.is_empty());
            if let Some(path) = said(format!("REPLICATE_PANEL_{name}_FILE")) {
                *secret = Some(SecretFrom::File(PathBuf::from(path)));
            }
            if let Some(text) = said(format!("REPLICATE_PANEL_{name}")) {
                let refused = |problem| Error::usage(format!("REPLICATE_PANEL_{name} {problem}"));
                *secret = Some(SecretFrom::Text(fitting(&text).map_err(refused)?));
            }
        }
        Ok(())
    }

    /// Who is let in. Reads the files.
    pub fn credentials(&self) -> Result<Credentials, Error> {
        let read = |key, from: &Option<SecretFrom>| from.as_ref().map(|from| from.secret(key)).transpose();
        let (password, token) = (read("password", &self.password)?, read("token", &self.token)?);
        Ok(Credentials { user: self.user.clone(), password, token })
    }

    /// In a few words, without secrets.
    pub fn shown(&self) -> String {
        match (self.is_on, &self.password, &self.token) {
            (false, ..) => "off".to_owned(),
            (true, None, None) => "read only, and on loopback only: no password and no token is set".to_owned(),
            (true, password, token) => {
                let password = password.as_ref().map(|_| format!("for {} with a password", self.user));
                let token = token.as_ref().map(|_| "with a token".to_owned());
                password.into_iter().chain(token).collect::<Vec<_>>().join(", ")
            }
        }
    }
}

fn secret_from(fields: &mut Fields, key: &str) -> Result<Option<SecretFrom>, ConfigError> {
    let file_key = format!("{key}-file");
    match (fields.text(key)?, fields.text(&file_key)?) {
        (Some(_), Some(_)) => Err(fields.error(&file_key, format!("stands beside `{key}`; one of them is enough"))),
        (None, None) => Ok(None),
        (None, Some(path)) => Ok(Some(SecretFrom::File(PathBuf::from(path)))),
        (Some(text), None) => {
            fitting(&text).map(|secret| Some(SecretFrom::Text(secret))).map_err(|problem| fields.error(key, problem))
        }
    }
}

fn is_host(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '_');
    !name.is_empty() && name.len() <= 255 && name.chars().all(good)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn parse(text: &str) -> Result<PanelConfig, ConfigError> {
        Config::parse(text, &|name| (name == "SECRET").then(|| "hunter2hunter2".to_owned())).map(|config| config.panel)
    }

    /// Every form is read as documented, and no way of printing it shows a secret.
    #[test]
    fn every_form_is_understood() {
        assert_eq!(parse("{}").unwrap(), PanelConfig::default());
        assert!(!parse("panel: off").unwrap().is_on && !parse("panel: false").unwrap().is_on);
        let panel =
            parse("panel: {user: ops, password: '${SECRET}', token-file: /t, hosts: [Ops.Example.org]}").unwrap();
        assert_eq!((panel.user.as_str(), &panel.hosts[..]), ("ops", &["ops.example.org".to_owned()][..]));
        assert_eq!(panel.token, Some(SecretFrom::File("/t".into())));
        assert!(!format!("{panel:?} {}", panel.shown()).contains("hunter2"));
        let error = panel.credentials().unwrap_err();
        assert!(error.to_string().contains("panel.token-file"), "{error}");
    }

    /// A secret comes from a file too, without the end of its line; one that is too short is refused there as well.
    #[test]
    fn secrets_from_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let panel = parse(&format!("panel: {{password-file: '{}'}}", path.display())).unwrap();
        std::fs::write(&path, "correct horse\n").unwrap();
        assert_eq!(panel.credentials().unwrap().password.unwrap().expose(), "correct horse");
        for bad in ["short\n", "two lines of\ntext\n"] {
            std::fs::write(&path, bad).unwrap();
            assert!(panel.credentials().is_err(), "{bad:?}");
        }
    }

    /// What cannot work is refused with the way to it.
    #[test]
    fn impossible_values_are_refused() {
        for (text, at) in [
            ("{password: short}", "panel.password`"),
            ("{password: hunter2hunter2, password-file: /x}", "panel.password-file`"),
            ("{passwort: hunter2hunter2}", "\"password\""),
            ("{user: 'a:b'}", "panel.user`"),
            ("{hosts: ['http://x']}", "panel.hosts`"),
            ("nonsense", "`panel`"),
        ] {
            let message = parse(&format!("panel: {text}")).unwrap_err().to_string();
            assert!(message.contains(at) && !message.contains("hunter2"), "{text}: {message}");
        }
    }
}
