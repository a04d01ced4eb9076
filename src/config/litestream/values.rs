//! Values of Litestream in our form.

use std::time::Duration;

/// `$NAME` becomes `${NAME}`, which is the only form here.
pub fn variables(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, after) = (&rest[..at], &rest[at + 1..]);
        result.push_str(before);
        let letters = after.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
        let name = &after[..letters];
        match name.bytes().next() {
            Some(first) if !first.is_ascii_digit() => result.push_str(&format!("${{{name}}}")),
            _ => {
                result.push('$');
                result.push_str(name);
            }
        }
        rest = &after[letters..];
    }
    result.push_str(rest);
    result
}

/// A path that begins in the user's home.
pub fn home(path: &str) -> String {
    path.strip_prefix("~/").map_or_else(|| path.to_owned(), |rest| format!("${{HOME}}/{rest}"))
}

/// A duration as Go writes it, fractions included. Less than a millisecond is one.
pub fn duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 7] =
        [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut seconds, mut rest) = (0.0, text);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let (_, factor) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
        seconds += number.parse::<f64>().ok()? * factor;
        rest = after;
    }
    let whole = Duration::try_from_secs_f64(seconds).ok().filter(|_| !text.is_empty())?;
    Some(Duration::from_millis(crate::position::whole_ms(whole).max(u64::from(seconds > 0.0))))
}

/// An address to listen on: no host means every one.
pub fn address(text: &str) -> String {
    match text.rsplit_once(':') {
        Some(("", port)) => format!("0.0.0.0:{port}"),
        Some(("localhost", port)) => format!("127.0.0.1:{port}"),
        _ => text.to_owned(),
    }
}

/// An endpoint with its scheme.
pub fn endpoint(text: &str) -> String {
    let host = text.split([':', '/']).next().unwrap_or(text);
    let near = host == "localhost" || host.ends_with(".local") || host.ends_with(".localhost");
    let private = |address: std::net::Ipv4Addr| address.is_loopback() || address.is_private();
    match text.contains("://") || text.starts_with("${") {
        true => text.to_owned(),
        false if near || host.parse().is_ok_and(private) => format!("http://{text}"),
        false => format!("https://{text}"),
    }
}

/// The bucket, the region and the endpoint that the host of an S3 URL names.
pub fn host(host: &str) -> (String, Option<String>, Option<String>) {
    /// Hosts that buckets have before them: their ending, their labels, and which of these is the region.
    const SERVICES: [(&str, usize, Option<usize>); 5] = [
        (".backblazeb2.com", 4, Some(1)),
        (".scw.cloud", 4, Some(1)),
        (".digitaloceanspaces.com", 3, Some(0)),
        (".linodeobjects.com", 3, Some(0)),
        (".s3.filebase.com", 3, None),
    ];
    if let Some((bucket, rest)) = host.strip_suffix(".amazonaws.com").and_then(|host| host.split_once(".s3")) {
        let region = rest.trim_start_matches(['.', '-']);
        return (bucket.to_owned(), Some(region.to_owned()).filter(|region| !region.is_empty()), None);
    }
    let (name, port) = host.split_once(':').unwrap_or((host, ""));
    if let Some(bucket) = name.strip_suffix(".localhost") {
        let port = if port.is_empty() { String::new() } else { format!(":{port}") };
        return (bucket.to_owned(), None, Some(format!("http://localhost{port}")));
    }
    if let Some((_, count, region)) = SERVICES.into_iter().find(|(ending, ..)| host.ends_with(ending)) {
        let labels: Vec<&str> = host.split('.').collect();
        if labels.len() > count {
            let (bucket, service) = labels.split_at(labels.len() - count);
            let endpoint = format!("https://{}", service.join("."));
            return (bucket.join("."), region.map(|at| service[at].to_owned()), Some(endpoint));
        }
    }
    (host.to_owned(), None, None)
}
