//! `${VAR}` and `${VAR:-default}` in the texts of a parsed configuration.
//!
//! Expansion happens on the parsed tree, so that no value of a variable can change the structure of the file.

use serde_yaml_ng::Value;

use super::ConfigError;

/// Looks a variable up; the environment comes in from the top.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Expands every text of the tree; `path` is the way to `value`, for errors. Keys are left alone.
pub fn expand_tree(value: Value, path: &str, environment: Environment<'_>) -> Result<Value, ConfigError> {
    match value {
        Value::String(text) => Ok(Value::String(expand(&text, path, environment)?)),
        Value::Sequence(items) => {
            let each = items.into_iter().enumerate();
            let expanded = each.map(|(i, item)| expand_tree(item, &format!("{path}[{i}]"), environment));
            Ok(Value::Sequence(expanded.collect::<Result<_, _>>()?))
        }
        Value::Mapping(entries) => {
            let mut expanded = serde_yaml_ng::Mapping::new();
            for (key, item) in entries {
                let below = super::fields::join(path, key.as_str().unwrap_or("?"));
                let item = expand_tree(item, &below, environment)?;
                expanded.insert(key, item);
            }
            Ok(Value::Mapping(expanded))
        }
        other => Ok(other),
    }
}

/// Expands one text. `$${` stands for `${` itself; a lone `$` is only a `$`.
fn expand(text: &str, path: &str, environment: Environment<'_>) -> Result<String, ConfigError> {
    let fail = |problem: String| Err(ConfigError::at(path, problem));
    let mut result = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        if let Some(before) = rest[..start].strip_suffix('$') {
            result.push_str(before);
            result.push_str("${");
            rest = &rest[start + 2..];
            continue;
        }
        result.push_str(&rest[..start]);
        let inside = &rest[start + 2..];
        let Some(end) = inside.find('}') else {
            return fail("`${` without its `}`".to_owned());
        };
        let (name, default) = match inside[..end].split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (&inside[..end], None),
        };
        let letter = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        if name.is_empty() || name.as_bytes()[0].is_ascii_digit() || !name.bytes().all(letter) {
            return fail(format!("{name:?} is not the name of a variable; write ${{NAME}} or ${{NAME:-default}}"));
        }
        // As in a shell: `:-` also covers a variable that is set but empty.
        match (environment(name), default) {
            (Some(value), Some(default)) if value.is_empty() => result.push_str(default),
            (Some(value), _) => result.push_str(&value),
            (None, Some(default)) => result.push_str(default),
            (None, None) => {
                return fail(format!("the variable {name} is not set; set it, or write ${{{name}:-default}}"));
            }
        }
        rest = &inside[end + 1..];
    }
    result.push_str(rest);
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("h".to_owned()),
            "EMPTY" => Some(String::new()),
            "EVIL" => Some("x\nlisten: y: {".to_owned()),
            _ => None,
        }
    }

    /// Every documented form expands, and a lone or doubled dollar sign does not.
    #[test]
    fn forms() {
        for (text, expected) in [
            ("${HOST}", "h"),
            ("a${HOST}b${HOST}", "ahbh"),
            ("${NONE:-d}", "d"),
            ("${NONE:-}", ""),
            ("${EMPTY:-d}", "d"),
            ("${EMPTY}", ""),
            ("$HOST $", "$HOST $"),
            ("$${HOST}", "${HOST}"),
            ("ü${HOST}ü", "ühü"),
        ] {
            assert_eq!(expand(text, "", &environment).unwrap(), expected, "{text}");
        }
    }

    /// What cannot be expanded is an error that names the variable and where it stands.
    #[test]
    fn refusals() {
        for (text, part) in [("${NONE}", "NONE"), ("${HOST", "without"), ("${}", "name"), ("${A B}", "A B")] {
            let message = expand(text, "databases[0].path", &environment).unwrap_err().to_string();
            assert!(message.contains(part) && message.contains("databases[0].path"), "{message}");
        }
    }

    /// The value of a variable stays one text, whatever is in it.
    #[test]
    fn a_value_cannot_change_the_structure() {
        let tree: Value = serde_yaml_ng::from_str("a: [{b: '${EVIL}'}]").unwrap();
        let tree = expand_tree(tree, "", &environment).unwrap();
        assert_eq!(tree["a"][0]["b"].as_str(), Some("x\nlisten: y: {"));
    }
}
