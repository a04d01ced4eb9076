//! Drawings: the lag of the last hour, and what can be restored, over time. Each says in words what it shows.

use std::time::Duration;

use maud::{Markup, html};

use super::history::SAMPLES;
use super::listing::Held;
use super::words;
use crate::position::TimeMs;

/// What a curve is drawn in; the page scales it.
const WIDTH: f64 = 360.0;

/// The samples, newest last, each as far right as it is new.
fn curve(samples: &[Option<Duration>], top: f64, height: f64) -> String {
    let (step, first) = (WIDTH / f64::from(SAMPLES - 1), SAMPLES as usize - samples.len().min(SAMPLES as usize));
    let (mut path, mut pen) = (String::new(), 'M');
    for (at, sample) in samples.iter().enumerate() {
        let Some(lag) = sample else {
            pen = 'M';
            continue;
        };
        let (x, y) = ((first + at) as f64 * step, height - 1.0 - lag.as_secs_f64() / top * (height - 2.0));
        // A line of no length makes a dot of a moment without neighbours.
        let dot = if pen == 'M' { "h0" } else { "" };
        path.push_str(&format!("{pen}{x:.1} {y:.1}{dot}"));
        pen = 'L';
    }
    path
}

fn highest(samples: &[Option<Duration>]) -> Duration {
    samples.iter().flatten().max().copied().unwrap_or_default()
}

/// One line of the overview. What it shows stands beside it in words.
pub fn sparkline(samples: &[Option<Duration>]) -> Markup {
    let top = highest(samples).as_secs_f64().max(1.0);
    html! {
        svg class="spark" viewBox="0 0 360 40" preserveAspectRatio="none" aria-hidden="true" focusable="false" {
            path class="curve" d=(curve(samples, top, 40.0)) {}
        }
    }
}

/// The last hour of one replica. `id` is unlike any other on the page.
pub fn lag(samples: &[Option<Duration>], max_lag: Duration, id: &str) -> Markup {
    let worst = highest(samples);
    let is_near = worst > max_lag / 2;
    let top = if is_near { worst.max(max_lag) } else { worst.max(Duration::from_secs(1)) }.as_secs_f64();
    let now = samples.last().copied().flatten();
    let told = format!(
        "Lag in the last hour: {} now, at most {}; allowed is {}.",
        now.map_or("unknown".to_owned(), words::length),
        words::length(worst),
        words::length(max_lag)
    );
    let bound = 118.0 - max_lag.as_secs_f64() / top * 116.0 + 1.0;
    html! {
        figure {
            svg class="chart" viewBox="0 0 360 120" preserveAspectRatio="none" role="img" aria-labelledby=(id) focusable="false" {
                title id=(id) { (told) }
                @for quarter in 1..4 { line class="grid" x1=(quarter * 90) x2=(quarter * 90) y1="0" y2="120" {} }
                @if is_near { line class="bound" x1="0" x2="360" y1=(format!("{bound:.1}")) y2=(format!("{bound:.1}")) {} }
                path class="curve" d=(curve(samples, top, 120.0)) {}
            }
            figcaption { (told) @if is_near { " The dashed line is what is allowed." } }
        }
    }
}

/// Where on a line of 1000 a moment stands.
fn place(time: TimeMs, (first, last): (TimeMs, TimeMs)) -> f64 {
    let whole = last.0.saturating_sub(first.0).max(1) as f64;
    (time.0.saturating_sub(first.0) as f64 / whole * 1000.0).clamp(0.0, 1000.0)
}

/// Windows as bars, gaps hatched between them, snapshots as strokes below, labels as diamonds above.
pub fn timeline(held: &Held, id: &str, now: TimeMs) -> Markup {
    let Some((first, last)) = held.span() else { return html! { p { "Nothing can be restored from it yet." } } };
    let span = (first, last.max(now));
    let at = |time| format!("{:.1}", place(time, span));
    let stretch = |from, to| format!("{:.1}", (place(to, span) - place(from, span)).max(2.0));
    let hatch = format!("{id}-hatch");
    let told = format!(
        "From {} to {}: {}, {}, {}, {}. Each is listed below.",
        words::ago(first, now),
        words::ago(last, now),
        words::count(held.windows.len(), "stretch that can be restored", "stretches that can be restored"),
        words::count(held.gaps.len(), "gap", "gaps"),
        words::count(held.snapshots.len(), "snapshot", "snapshots"),
        words::count(held.labels.len(), "label", "labels")
    );
    html! {
        figure {
            svg class="timeline" viewBox="0 0 1000 60" preserveAspectRatio="none" role="img" aria-labelledby=(id) focusable="false" {
                title id=(id) { (told) }
                pattern id=(hatch) width="8" height="8" patternUnits="userSpaceOnUse" patternTransform="rotate(45)" {
                    rect class="hatch" width="4" height="8" {}
                }
                line class="grid" x1="0" x2="1000" y1="30" y2="30" {}
                @for (_, window) in &held.windows {
                    rect class="window" x=(at(window.from.time)) y="20" width=(stretch(window.from.time, window.to.time)) height="20" {}
                }
                @for (_, gap) in &held.gaps {
                    @if let (Some(before), Some(after)) = (gap.before, gap.after) {
                        rect x=(at(before.time)) y="16" width=(stretch(before.time, after.time)) height="28" fill=(format!("url(#{hatch})")) {}
                    }
                }
                @for (_, snapshot) in &held.snapshots {
                    line class="snapshot" x1=(at(snapshot.time)) x2=(at(snapshot.time)) y1="44" y2="56" {}
                }
                @for label in &held.labels {
                    path class="label" d=(format!("M{} 4l5 6l-5 6l-5 -6z", at(label.commit.time))) {}
                }
            }
            figcaption {
                span { (words::ago(first, now)) } " to now. "
                span class="key window" { "restorable" } " " span class="key gap" { "gap" } " "
                span class="key snapshot" { "snapshot" } " " span class="key label" { "label" }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A curve begins where samples begin, breaks where none is known, and stays within its picture.
    #[test]
    fn curves() {
        let second = |n| Some(Duration::from_secs(n));
        assert_eq!(
            curve(&[None, second(0), second(10), None, second(5)], 10.0, 40.0),
            "M357.0 39.0h0L358.0 1.0M360.0 20.0h0"
        );
        let all = vec![second(3); SAMPLES as usize];
        assert!(curve(&all, 3.0, 40.0).starts_with("M0.0 1.0h0L"));
        assert_eq!(curve(&[], 1.0, 40.0), "");
    }

    /// Moments stand in their order between the ends, also where first and last are one.
    #[test]
    fn places() {
        let span = (TimeMs(1000), TimeMs(3000));
        assert_eq!([500, 1000, 2000, 3000, 9000].map(|ms| place(TimeMs(ms), span)), [0.0, 0.0, 500.0, 1000.0, 1000.0]);
        assert_eq!(place(TimeMs(1000), (TimeMs(1000), TimeMs(1000))), 0.0);
    }
}
