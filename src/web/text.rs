//! The text format of Prometheus, version 0.0.4: families of samples.
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

use std::fmt::Write;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

pub type Labels<'a> = [(&'a str, &'a str)];

/// A text that grows by one family after the other.
#[derive(Debug, Default)]
pub struct Text {
    out: String,
    name: &'static str,
    skips_zeros: bool,
}

impl Text {
    /// All samples up to the next family belong to this one.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) {
        self.name = name;
        self.out.push_str("# HELP ");
        self.out.push_str(name);
        self.out.push(' ');
        escape(&mut self.out, help, false);
        self.out.push_str("\n# TYPE ");
        self.out.push_str(name);
        self.out.push(' ');
        self.out.push_str(kind.word());
        self.out.push('\n');
    }

    /// From now on, what never happened is left out.
    pub fn skip_zeros(&mut self, skip: bool) {
        self.skips_zeros = skip;
    }

    pub fn sample(&mut self, labels: &Labels<'_>, value: f64) {
        if self.skips_zeros && value == 0.0 {
            return;
        }
        self.line("", labels, None, value);
    }

    /// `counts` are not cumulative; one more than `bounds`: the last is of what is above them all.
    pub fn histogram(&mut self, labels: &Labels<'_>, bounds: impl Iterator<Item = f64>, counts: &[u64], sum: f64) {
        if self.skips_zeros && counts.iter().all(|count| *count == 0) {
            return;
        }
        let mut total = 0;
        for (bound, count) in bounds.chain([f64::INFINITY]).zip(counts) {
            total += count;
            self.line("_bucket", labels, Some(bound), total as f64);
        }
        self.line("_sum", labels, None, sum);
        self.line("_count", labels, None, total as f64);
    }

    fn line(&mut self, suffix: &str, labels: &Labels<'_>, bound: Option<f64>, value: f64) {
        self.out.push_str(self.name);
        self.out.push_str(suffix);
        let mut before = '{';
        for (label, text) in labels {
            self.out.push(before);
            self.out.push_str(label);
            self.out.push_str("=\"");
            escape(&mut self.out, text, true);
            self.out.push('"');
            before = ',';
        }
        if let Some(bound) = bound {
            self.out.push(before);
            self.out.push_str("le=\"");
            self.number(bound);
            self.out.push('"');
            before = ',';
        }
        if before == ',' {
            self.out.push('}');
        }
        self.out.push(' ');
        self.number(value);
        self.out.push('\n');
    }

    fn number(&mut self, value: f64) {
        if value == f64::INFINITY {
            self.out.push_str("+Inf");
        } else {
            write!(self.out, "{value}").expect("a text takes everything");
        }
    }

    pub fn finish(self) -> String {
        self.out
    }
}

fn escape(out: &mut String, text: &str, quoted: bool) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quoted => out.push_str("\\\""),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What never happened is left out where that is asked for, and nothing else.
    #[test]
    fn zeros_may_be_left_out() {
        let mut text = Text::default();
        text.family("a_total", Kind::Counter, "Some.");
        text.skip_zeros(true);
        text.sample(&[("x", "1")], 0.0);
        text.sample(&[("x", "2")], 2.0);
        text.histogram(&[("x", "3")], [1.0].into_iter(), &[0, 0], 0.0);
        text.skip_zeros(false);
        text.sample(&[("x", "4")], 0.0);
        let lines: Vec<String> = text.finish().lines().skip(2).map(str::to_owned).collect();
        assert_eq!(lines, ["a_total{x=\"2\"} 2", "a_total{x=\"4\"} 0"]);
    }

    /// What is written is what the format's description shows, with every character that needs it escaped.
    #[test]
    fn as_the_format_says() {
        let mut text = Text::default();
        text.family("a_total", Kind::Counter, "Back\\slash, \"quotes\"\nand lines.");
        text.sample(&[], 0.0);
        text.sample(&[("path", "C:\\x\"y\"\n"), ("b", "")], 1.5);
        text.family("c_seconds", Kind::Histogram, "Times.");
        text.histogram(&[("x", "ä")], [0.005, 600.0].into_iter(), &[1, 0, 2], 1234.5);
        text.histogram(&[], [1.0].into_iter(), &[0, 0], 0.0);
        text.family("d", Kind::Gauge, "Large.");
        text.sample(&[], 1_800_000_000.123);
        assert_eq!(
            text.finish(),
            concat!(
                "# HELP a_total Back\\\\slash, \"quotes\"\\nand lines.\n# TYPE a_total counter\n",
                "a_total 0\na_total{path=\"C:\\\\x\\\"y\\\"\\n\",b=\"\"} 1.5\n",
                "# HELP c_seconds Times.\n# TYPE c_seconds histogram\n",
                "c_seconds_bucket{x=\"ä\",le=\"0.005\"} 1\nc_seconds_bucket{x=\"ä\",le=\"600\"} 1\n",
                "c_seconds_bucket{x=\"ä\",le=\"+Inf\"} 3\nc_seconds_sum{x=\"ä\"} 1234.5\nc_seconds_count{x=\"ä\"} 3\n",
                "c_seconds_bucket{le=\"1\"} 0\nc_seconds_bucket{le=\"+Inf\"} 0\nc_seconds_sum 0\nc_seconds_count 0\n",
                "# HELP d Large.\n# TYPE d gauge\nd 1800000000.123\n",
            )
        );
    }
}
