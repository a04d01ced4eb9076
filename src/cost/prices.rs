//! What stores ask for. Examples from November 2025: services change them, have other ones in other regions, and free allowances that
//! are not counted here. Look at your own contract.

use super::{Estimate, MONTH};
use crate::store::requests::Kind;

const GB: f64 = 1e9;
/// When the examples were looked up.
pub const DATED: &str = "2025-11";

/// Of one service, in its currency.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prices {
    pub name: &'static str,
    pub currency: &'static str,
    /// For 1,000 requests that write.
    pub write: f64,
    /// For 1,000 requests that list.
    pub list: f64,
    /// For 1,000 requests that read.
    pub read: f64,
    /// For a GB (1,000,000,000 bytes) stored for a month.
    pub stored: f64,
    /// For a GB that leaves the service; what comes in is free in all of them.
    pub download: f64,
}

/// List prices of well-known stores, as examples.
pub const EXAMPLES: [Prices; 5] = [
    Prices { name: "aws-s3", currency: "USD", write: 0.005, list: 0.005, read: 0.0004, stored: 0.023, download: 0.09 },
    Prices {
        name: "cloudflare-r2",
        currency: "USD",
        write: 0.0045,
        list: 0.0045,
        read: 0.00036,
        stored: 0.015,
        download: 0.0,
    },
    Prices {
        name: "backblaze-b2",
        currency: "USD",
        write: 0.0,
        list: 0.004,
        read: 0.0004,
        stored: 0.006,
        download: 0.01,
    },
    Prices {
        name: "google-storage",
        currency: "USD",
        write: 0.005,
        list: 0.005,
        read: 0.0004,
        stored: 0.02,
        download: 0.12,
    },
    Prices { name: "none", currency: "USD", write: 0.0, list: 0.0, read: 0.0, stored: 0.0, download: 0.0 },
];

/// The keys of single prices.
pub const KEYS: [&str; 5] = ["write", "list", "read", "stored", "download"];

impl Prices {
    pub fn named(name: &str) -> Option<Prices> {
        EXAMPLES.into_iter().find(|prices| prices.name == name)
    }

    /// The example that fits a replica by its URL and endpoint; AWS where nothing is known of the service.
    pub fn guess(url: &str, endpoint: Option<&str>) -> Prices {
        let endpoint = endpoint.unwrap_or_default();
        let name = match url.starts_with("s3://") {
            false => "none",
            true if endpoint.contains("r2.cloudflarestorage.com") => "cloudflare-r2",
            true if endpoint.contains("backblazeb2.com") => "backblaze-b2",
            true if endpoint.contains("googleapis.com") => "google-storage",
            true => "aws-s3",
        };
        Prices::named(name).unwrap_or(EXAMPLES[0])
    }

    /// Sets one price; `false` where there is no such key.
    pub fn set(&mut self, key: &str, price: f64) -> bool {
        let prices = [&mut self.write, &mut self.list, &mut self.read, &mut self.stored, &mut self.download];
        let found = KEYS.iter().zip(prices).find(|(known, _)| **known == key);
        found.map(|(_, of)| *of = price).is_some()
    }

    /// What requests cost; deletions are free in all of these services.
    pub fn requests(&self, requests: impl Fn(Kind) -> f64) -> f64 {
        let price = |kind| match kind {
            Kind::Put | Kind::CreateUpload | Kind::UploadPart | Kind::CompleteUpload => self.write,
            Kind::List => self.list,
            Kind::Get | Kind::Head => self.read,
            Kind::AbortUpload | Kind::Delete | Kind::DeleteMany => 0.0,
        };
        Kind::ALL.into_iter().map(|kind| requests(kind) / 1000.0 * price(kind)).sum()
    }

    pub fn bill(&self, month: &Estimate) -> Bill {
        Bill {
            requests: self.requests(|kind| month.of_kind(kind)),
            stored: month.stored_bytes / GB * self.stored,
            download: month.downloaded_bytes / GB * self.download,
        }
    }
}

/// Money for a month.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Bill {
    pub requests: f64,
    pub stored: f64,
    pub download: f64,
}

impl Bill {
    pub fn total(&self) -> f64 {
        self.requests + self.stored + self.download
    }
}

/// What was used in `seconds`, as a month of the same.
pub fn per_month(used: f64, seconds: f64) -> f64 {
    if seconds > 0.0 { used * MONTH.as_secs_f64() / seconds } else { 0.0 }
}
