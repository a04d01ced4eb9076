//! What an error of the SDK, or an answer of a server, means for the caller.

use std::error::Error;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;

use super::What;
use crate::store::{Outcome, StoreError};

/// Errors are no longer than this in messages: a proxy may answer with a whole page.
const TEXT_MAX: usize = 500;

/// The error for the caller, and whether credentials had expired.
pub(super) fn read<E>(what: What<'_>, error: &SdkError<E, HttpResponse>) -> (StoreError, bool)
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let Some(response) = error.raw_response() else {
        return (unanswered(what, error), false);
    };
    let header = |name| response.headers().get(name).map(str::to_owned);
    let (code, message) = (error.code(), error.message());
    let status = response.status().as_u16();
    // An answer of success that could not be read was cut or damaged on its way.
    let unreadable = matches!(error, SdkError::ResponseError(_)) && (200..300).contains(&status);
    let (outcome, step) = match unreadable {
        true => (Outcome::Unavailable, None),
        false => judge(what.operation, status, code),
    };
    let mut detail = match (code, message) {
        (Some(code), Some(message)) => format!("{status} {code}: {message}"),
        (Some(code), None) => format!("{status} {code}"),
        _ if unreadable => format!("{status}, and {}", chain(error)),
        _ => format!("{status}"),
    };
    cut(&mut detail);
    if let Some(step) = step {
        detail = format!("{detail} ({step})");
    }
    if let Some(region) = header("x-amz-bucket-region").filter(|_| matches!(status, 301 | 307 | 400)) {
        detail = format!("{detail} (the bucket is in region {region})");
    }
    if let Some(id) = header("x-amz-request-id") {
        detail = format!("{detail} [request {id}]");
    }
    let retry_after = header("retry-after").and_then(|text| retry_after(&text, header("date").as_deref()));
    let expired = code.is_some_and(|code| EXPIRED.contains(&code));
    (StoreError { retry_after, ..what.error(outcome, detail) }, expired)
}

/// Credentials that were good once.
const EXPIRED: [&str; 4] = ["ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"];

/// What an answer means: first by its code, which is exact, then by its status.
pub(super) fn judge(operation: &str, status: u16, code: Option<&str>) -> (Outcome, Option<&'static str>) {
    use Outcome::{AlreadyExists, Denied, Invalid, NotFound, Unavailable};
    match code.unwrap_or_default() {
        code if EXPIRED.contains(&code) => {
            return (Denied, Some("the credentials have expired: renew them where they come from"));
        }
        "NoSuchBucket" => return (Denied, Some("create the bucket, or correct the URL or the endpoint")),
        "NoSuchKey" => return (NotFound, None),
        // The upload was aborted under us, by a rule of the bucket or another process: from the beginning.
        "NoSuchUpload" => return (Unavailable, None),
        "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" | "AuthFailure" => {
            return (Denied, Some("check the access key, its secret and the session token"));
        }
        "RequestTimeTooSkewed" => return (Denied, Some("set this machine's clock")),
        "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" | "PermanentRedirect" => {
            return (Invalid, Some("set the region, or the endpoint, of the bucket"));
        }
        "AccessDenied" | "AllAccessDisabled" | "AccountProblem" => {
            return (Denied, Some("give these credentials the permissions of docs/stores.md"));
        }
        // The body did not arrive as it was sent.
        "BadDigest" | "XAmzContentSHA256Mismatch" | "XAmzContentChecksumMismatch" | "IncompleteBody" => {
            return (Unavailable, None);
        }
        "RequestTimeout"
        | "SlowDown"
        | "InternalError"
        | "ServiceUnavailable"
        | "OperationAborted"
        | "ConditionalRequestConflict"
        | "ThrottlingException"
        | "TooManyRequests" => return (Unavailable, None),
        "PreconditionFailed" if operation == "put" => return (AlreadyExists, None),
        "KMS.DisabledException" | "KMS.NotFoundException" | "KMS.InvalidStateException" => {
            return (Denied, Some("the key that encrypts the bucket cannot be used: check kms-key-id and its policy"));
        }
        _ => {}
    }
    match status {
        301 | 302 | 307 | 308 => (Invalid, Some("set the region, or the endpoint, of the bucket")),
        401 | 403 => (Denied, Some("check the credentials, and their permissions by docs/stores.md")),
        404 if operation == "put" => (Denied, Some("no such bucket? Create it, or correct the URL or the endpoint")),
        404 => (NotFound, None),
        405 => (Invalid, Some("the server does not allow this here: is the endpoint that of an S3 service?")),
        412 if operation == "put" => (AlreadyExists, None),
        408 | 409 | 425 | 429 => (Unavailable, None),
        416 => (Invalid, Some("the object is shorter than expected")),
        501 => (Invalid, Some("the server does not know this; checksum=when-required suits older ones")),
        500..=599 => (Unavailable, None),
        _ => (Invalid, None),
    }
}

/// The request was not sent, or nothing came back.
fn unanswered<E: Error + 'static>(what: What<'_>, error: &SdkError<E, HttpResponse>) -> StoreError {
    let mut detail = chain(error);
    cut(&mut detail);
    if let Some(credentials) = find::<CredentialsError>(error) {
        return match credentials {
            CredentialsError::ProviderTimedOut(_) => what.error(Outcome::Unavailable, detail),
            CredentialsError::CredentialsNotLoaded(_) => {
                let step = "no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or \
                            access-key-id and secret-access-key in the configuration";
                what.error(Outcome::Denied, format!("{detail} ({step})"))
            }
            CredentialsError::InvalidConfiguration(_) => what
                .error(Outcome::Denied, format!("{detail} (correct the profile or the variables of the credentials)")),
            // The service that hands them out did not answer, or refused.
            _ => what.error(Outcome::Unavailable, format!("{detail} (no credentials could be had)")),
        };
    }
    if matches!(error, SdkError::ConstructionFailure(_)) {
        return what.error(Outcome::Invalid, detail);
    }
    if detail.to_ascii_lowercase().contains("certificate") {
        let step = "if the server's certificate comes from an authority of your own, name it in AWS_CA_BUNDLE";
        detail = format!("{detail} ({step})");
    }
    what.error(Outcome::Unavailable, detail)
}

/// The error and its sources, each said once.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = source.source();
    }
    text
}

fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

fn cut(text: &mut String) {
    if let Some((at, _)) = text.char_indices().nth(TEXT_MAX) {
        text.truncate(at);
        text.push('…');
    }
}

/// `Retry-After`, in seconds or as a moment, which the answer's own `Date` makes a time to wait.
fn retry_after(text: &str, date: Option<&str>) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let moment = |text: &str| DateTime::from_str(text, Format::HttpDate).ok().map(|time| time.secs());
    let wait = moment(text)? - moment(date?)?;
    u64::try_from(wait).ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every answer that S3-compatible servers are known to give has its outcome.
    #[test]
    fn outcomes() {
        use Outcome::{AlreadyExists, Denied, Invalid, NotFound, Unavailable};
        let table = [
            ("get", 301, Some("PermanentRedirect"), Invalid),
            ("get", 400, Some("ExpiredToken"), Denied),
            ("put", 400, Some("BadDigest"), Unavailable),
            ("put", 400, Some("RequestTimeout"), Unavailable),
            ("put", 400, Some("InvalidArgument"), Invalid),
            ("get", 401, None, Denied),
            ("get", 403, Some("RequestTimeTooSkewed"), Denied),
            ("get", 403, None, Denied),
            ("get", 404, Some("NoSuchKey"), NotFound),
            ("get", 404, None, NotFound),
            ("get", 404, Some("NoSuchBucket"), Denied),
            ("put", 404, None, Denied),
            ("put", 404, Some("NoSuchUpload"), Unavailable),
            ("put", 405, Some("MethodNotAllowed"), Invalid),
            ("put", 409, Some("ConditionalRequestConflict"), Unavailable),
            ("put", 409, None, Unavailable),
            ("put", 411, Some("MissingContentLength"), Invalid),
            ("put", 412, Some("PreconditionFailed"), AlreadyExists),
            ("put", 412, None, AlreadyExists),
            ("get", 412, None, Invalid),
            ("get", 416, Some("InvalidRange"), Invalid),
            ("get", 429, None, Unavailable),
            ("get", 500, Some("InternalError"), Unavailable),
            ("get", 501, Some("NotImplemented"), Invalid),
            ("get", 502, None, Unavailable),
            ("get", 503, Some("SlowDown"), Unavailable),
            ("get", 504, None, Unavailable),
        ];
        for (operation, status, code, outcome) in table {
            assert_eq!(judge(operation, status, code).0, outcome, "{operation} {status} {code:?}");
        }
    }

    /// Both forms of the header are read; nonsense is no wait.
    #[test]
    fn times_to_wait() {
        assert_eq!(retry_after("7", None), Some(Duration::from_secs(7)));
        let (then, now) = ("Fri, 20 Nov 2026 10:00:30 GMT", "Fri, 20 Nov 2026 10:00:00 GMT");
        assert_eq!(retry_after(then, Some(now)), Some(Duration::from_secs(30)));
        assert_eq!(retry_after(now, Some(then)), None);
        assert_eq!(retry_after("soon", Some(now)), None);
    }
}
