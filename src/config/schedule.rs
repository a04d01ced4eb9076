//! What `schedule` says: what is done by the clock.

use serde_yaml_ng::Value;

use super::ConfigError;
use super::fields::Fields;
use crate::cron::{Cron, EXAMPLE, Zone};

const KEYS: [&str; 4] = ["time-zone", "snapshot", "verify", "drill"];

/// What is done by the clock, and when.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Schedule {
    pub snapshot: Option<Cron>,
    pub verify: Option<Cron>,
    pub drill: Option<Cron>,
}

impl Schedule {
    /// By key.
    pub fn entries(&self) -> [(&'static str, Option<&Cron>); 3] {
        [("snapshot", self.snapshot.as_ref()), ("verify", self.verify.as_ref()), ("drill", self.drill.as_ref())]
    }

    /// As it is understood, for people.
    pub fn show(&self) -> String {
        let set = self.entries().into_iter().filter_map(|(key, cron)| Some(format!("{key}: {}", cron?)));
        let all: Vec<String> = set.collect();
        if all.is_empty() { "never".to_owned() } else { all.join(", ") }
    }
}

/// Takes the key `schedule` out of `fields`; `None` where it is missing. The nearest `schedule` says everything.
pub(super) fn read(fields: &mut Fields) -> Result<Option<Schedule>, ConfigError> {
    let path = fields.path_to("schedule");
    let mut own = match fields.value("schedule") {
        None => return Ok(None),
        Some(Value::String(text)) if text == "never" => return Ok(Some(Schedule::default())),
        Some(value @ Value::Mapping(_)) => Fields::new(value, &path, &KEYS)?,
        Some(_) => return Err(ConfigError::at(&path, "is neither `never` nor a mapping of what is done when")),
    };
    let zone = match own.text("time-zone")? {
        None => Zone::UTC,
        Some(name) => Zone::parse(&name).map_err(|error| own.error("time-zone", error.to_string()))?,
    };
    let mut cron = |key: &str| match own.text(key)? {
        None => Ok(None),
        Some(text) => Cron::parse(&text, &zone).map(Some).map_err(|error| own.error(key, error.to_string())),
    };
    let schedule = Schedule { snapshot: cron("snapshot")?, verify: cron("verify")?, drill: cron("drill")? };
    if schedule == Schedule::default() {
        let problem =
            format!("says nothing that is done; write `verify: …` with a time, such as {EXAMPLE}, or `never`");
        return Err(ConfigError::at(&path, problem));
    }
    Ok(Some(schedule))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Option<Schedule>, ConfigError> {
        let value: Value = serde_yaml_ng::from_str(text).unwrap();
        read(&mut Fields::new(value, "defaults", &["schedule"])?)
    }

    /// Every key reads as documented, in its time zone, UTC where none is said.
    #[test]
    fn every_key_is_understood() {
        let text = "schedule: {time-zone: Europe/Berlin, snapshot: '@daily', verify: 0 4 * * *, drill: 30 4 * * SUN}";
        let schedule = read_text(text).unwrap().unwrap();
        let all =
            "snapshot: @daily (Europe/Berlin), verify: 0 4 * * * (Europe/Berlin), drill: 30 4 * * SUN (Europe/Berlin)";
        assert_eq!(schedule.show(), all);
        assert_eq!(read_text("schedule: {verify: '@hourly'}").unwrap().unwrap().show(), "verify: @hourly (UTC)");
        assert_eq!(read_text("schedule: never").unwrap(), Some(Schedule::default()));
        assert_eq!(read_text("{}").unwrap(), None);
    }

    /// What says nothing or cannot be understood is refused with the way to the key and an example.
    #[test]
    fn impossible_schedules_are_refused() {
        for (text, at, part) in [
            ("{}", "defaults.schedule`", "@daily"),
            ("{time-zone: UTC}", "defaults.schedule`", "`never`"),
            ("[]", "defaults.schedule`", "neither `never` nor a mapping"),
            ("{verify: daily}", "defaults.schedule.verify`", "30 4 * * *"),
            ("{drill: 0 0 31 2 *}", "defaults.schedule.drill`", "no moment that ever comes"),
            ("{time-zone: Berlin, verify: '@daily'}", "defaults.schedule.time-zone`", "Europe/Berlin"),
            ("{verfy: '@daily'}", "defaults.schedule.verfy`", "\"verify\""),
        ] {
            let message = read_text(&format!("schedule: {text}")).unwrap_err().to_string();
            assert!(message.contains(at) && message.contains(part), "{text}: {message}");
        }
    }
}
