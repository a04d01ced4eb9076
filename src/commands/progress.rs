//! How far a restore or a verification has come, on stderr, where that is a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::restore::Progress;

/// A bar for what has a length, a spinner for what has none; on no terminal, only notes are printed.
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
}

/// Drawn this often per second.
const FRAMES_PER_SECOND: u8 = 8;

impl Bar {
    pub fn new(is_terminal: bool) -> Bar {
        let target = match is_terminal {
            true => ProgressDrawTarget::stderr_with_hz(FRAMES_PER_SECOND),
            false => ProgressDrawTarget::hidden(),
        };
        Bar { bar: ProgressBar::with_draw_target(None, target) }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Progress for Bar {
    fn begin(&self, doing: &'static str, total: u64) {
        let template = match total {
            0 => "{spinner} {msg} {elapsed}",
            _ => "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} eta {eta}",
        };
        // The template is our own; without it, indicatif's default says the same.
        self.bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        self.bar.set_message(doing);
        self.bar.set_position(0);
        match total {
            0 => self.bar.unset_length(),
            total => self.bar.set_length(total),
        }
        self.bar.reset_eta();
    }

    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn note(&self, text: &str) {
        self.bar.suspend(|| eprintln!("note: {text}"));
    }
}
