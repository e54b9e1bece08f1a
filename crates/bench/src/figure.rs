//! A figure that an issue names: what upstream takes for a piece of work, what we take, what we aim at, and whether we are there.

use Target::{AtLeast, AtMost, Open};

/// What a number should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    AtMost(f64),
    AtLeast(f64),
    /// It is only told.
    Open,
}

/// One number of a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part {
    /// Printed behind the number, with its blank where it has one.
    pub unit: &'static str,
    /// After the point.
    pub digits: usize,
    pub target: Target,
}

/// A number of which little is good.
pub const fn at_most(limit: f64, unit: &'static str, digits: usize) -> Part {
    Part { unit, digits, target: AtMost(limit) }
}

/// A number of which much is good.
pub const fn at_least(limit: f64, unit: &'static str, digits: usize) -> Part {
    Part { unit, digits, target: AtLeast(limit) }
}

/// A number without an aim.
pub const fn told(unit: &'static str, digits: usize) -> Part {
    Part { unit, digits, target: Open }
}

impl Part {
    fn text(&self, value: f64) -> String {
        let digits = self.digits;
        let text = format!("{value:.digits$}");
        format!("{}{}", grouped(&text), self.unit)
    }

    fn aim(&self) -> Option<String> {
        match self.target {
            AtMost(limit) => Some(format!("≤ {}", self.text(limit))),
            AtLeast(limit) => Some(format!("≥ {}", self.text(limit))),
            Open => None,
        }
    }

    fn met(&self, value: f64) -> Option<bool> {
        match self.target {
            AtMost(limit) => Some(value <= limit),
            AtLeast(limit) => Some(value >= limit),
            Open => None,
        }
    }
}

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Figure {
    pub work: String,
    pub parts: Vec<Part>,
    /// Upstream's numbers as recorded, when nobody measures them here.
    pub recorded: String,
    /// Each run's numbers, in the order of the parts.
    pub upstream: Vec<Vec<f64>>,
    pub ours: Vec<Vec<f64>>,
    /// Some of the work failed.
    pub failed: bool,
}

impl Figure {
    /// A figure that upstream has no part in, of one run.
    pub fn ours(work: impl Into<String>, parts: Vec<Part>, values: Vec<f64>) -> Self {
        let (recorded, upstream) = (String::new(), Vec::new());
        Self { work: work.into(), parts, recorded, upstream, ours: vec![values], failed: false }
    }

    /// The same, some of the work having failed: no aim is met by it.
    pub fn failed(self) -> Self {
        Self { failed: true, ..self }
    }

    /// The middle run of each part.
    fn medians(&self, runs: &[Vec<f64>]) -> Vec<Option<f64>> {
        let of = |part: usize| median(runs.iter().filter_map(|run| run.get(part).copied()).collect());
        (0..self.parts.len()).map(of).collect()
    }

    fn cell(&self, runs: &[Vec<f64>]) -> String {
        let medians = self.medians(runs);
        let texts = self.parts.iter().zip(medians).filter_map(|(part, value)| Some(part.text(value?)));
        texts.collect::<Vec<_>>().join(" · ")
    }

    fn upstream_cell(&self) -> String {
        if self.upstream.is_empty() { self.recorded.clone() } else { self.cell(&self.upstream) }
    }

    fn aim(&self) -> String {
        self.parts.iter().filter_map(Part::aim).collect::<Vec<_>>().join(" · ")
    }

    /// `yes`, `no`, or one word for each aim when they differ.
    fn verdict(&self) -> String {
        let values = self.medians(&self.ours);
        let met = self.parts.iter().zip(values).filter_map(|(part, value)| part.met(value?));
        let met = met.map(|met| met && !self.failed);
        let met: Vec<bool> = met.collect();
        let word = |met: &bool| if *met { "yes" } else { "no" };
        match met.as_slice() {
            [] => String::new(),
            [first, rest @ ..] if rest.iter().all(|other| other == first) => word(first).to_owned(),
            mixed => mixed.iter().map(word).collect::<Vec<_>>().join(" · "),
        }
    }
}

/// The number in the middle; of an even count the lower of the two, which is one that was measured.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied()
}

/// `12345.6` as `12,345.6`.
pub fn grouped(number: &str) -> String {
    let (whole, rest) = number.split_at(number.find('.').unwrap_or(number.len()));
    let mut out = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) && out != "-" {
            out.push(',');
        }
        out.push(digit);
    }
    out + rest
}

/// A section of figures as a table that reads well on a terminal and in Markdown.
pub fn table(title: &str, figures: &[Figure]) -> String {
    let measured = figures.iter().any(|figure| !figure.upstream.is_empty());
    let with_upstream = figures.iter().any(|figure| !figure.upstream_cell().is_empty());
    let upstream = if measured { "upstream (measured)" } else { "upstream (recorded)" };
    let heading = [title, upstream, "Corten", "target", "met?"].map(str::to_owned);
    let mut lines = vec![heading];
    lines.extend(figures.iter().map(|figure| {
        [
            figure.work.clone(),
            figure.upstream_cell(),
            figure.cell(&figure.ours),
            figure.aim(),
            figure.verdict(),
        ]
    }));
    let columns: Vec<usize> = (0..5).filter(|column| *column != 1 || with_upstream).collect();
    let width = |column: usize| lines.iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for (number, cells) in lines.iter().enumerate() {
        let cell = |column: &usize| format!(" {:<width$} |", cells[*column], width = width(*column));
        out += &format!("|{}\n", columns.iter().map(cell).collect::<String>());
        if number == 0 {
            let rule = |column: &usize| format!("{}|", "-".repeat(width(*column) + 2));
            out += &format!("|{}\n", columns.iter().map(rule).collect::<String>());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_a_run() {
        let cases: [(&[f64], Option<f64>); 5] = [
            (&[], None),
            (&[3.0], Some(3.0)),
            (&[4.0, 1.0], Some(1.0)),
            (&[5.0, 1.0, 3.0], Some(3.0)),
            (&[9.0, 1.0, 3.0, 2.0, 100.0], Some(3.0)),
        ];
        for (values, expected) in cases {
            assert_eq!(median(values.to_vec()), expected, "{values:?}");
        }
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        let cases = [
            ("0", "0"),
            ("999.5", "999.5"),
            ("1000", "1,000"),
            ("1234567.25", "1,234,567.25"),
            ("-100", "-100"),
        ];
        for (number, expected) in cases {
            assert_eq!(grouped(number), expected);
        }
    }

    #[test]
    fn a_verdict_stands_for_each_aim_or_for_all() {
        let parts = vec![at_least(100.0, "/s", 0), at_most(0.5, " s", 1), told(" MB", 0)];
        let cases = [([100.0, 0.5, 7.0], "yes"), ([99.0, 0.6, 7.0], "no"), ([99.0, 0.1, 7.0], "no · yes")];
        for (values, expected) in cases {
            assert_eq!(Figure::ours("x", parts.clone(), values.to_vec()).verdict(), expected);
        }
        assert_eq!(Figure::ours("x", vec![told("", 0)], vec![1.0]).verdict(), "");
        assert_eq!(Figure::ours("x", parts.clone(), vec![100.0, 0.5, 7.0]).failed().verdict(), "no");
        // Nothing measured is nothing met.
        assert_eq!(Figure::ours("x", parts, Vec::new()).verdict(), "");
    }

    #[test]
    fn a_table_shows_medians_and_who_measured() {
        let parts = vec![at_least(4400.0, "/s", 0), at_most(0.4, " s", 2)];
        let mut figure = Figure {
            recorded: "442/s · 4.0 s".to_owned(),
            ours: vec![vec![5000.0, 0.5], vec![4000.0, 0.3], vec![4500.0, 0.41]],
            ..Figure::ours("pod create", parts, Vec::new())
        };
        let expected = "\
| work       | upstream (recorded) | Corten           | target             | met?     |
|------------|---------------------|------------------|--------------------|----------|
| pod create | 442/s · 4.0 s       | 4,500/s · 0.41 s | ≥ 4,400/s · ≤ 0.40 s | yes · no |
";
        let squeezed =
            |text: &str| text.split([' ', '-']).filter(|word| !word.is_empty()).collect::<String>();
        assert_eq!(squeezed(&table("work", &[figure.clone()])), squeezed(expected));
        figure.upstream = vec![vec![450.0, 4.1]];
        let text = table("work", &[figure]);
        assert!(text.contains("upstream (measured)") && text.contains("450/s · 4.10 s"), "{text}");
        let widths: Vec<usize> = text.lines().map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{text}");
        let alone = table("work", &[Figure::ours("x", vec![told(" ms", 1)], vec![2.0])]);
        assert!(!alone.contains("upstream") && alone.contains("2.0 ms"), "{alone}");
    }
}
