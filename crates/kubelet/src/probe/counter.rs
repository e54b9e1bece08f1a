//! Thresholds: how many results in a row make a verdict. Pure.

/// Counts results of one probe.
#[derive(Debug, Clone)]
pub struct Counter {
    successes_needed: u64,
    failures_needed: u64,
    last: Option<bool>,
    run: u64,
}

impl Counter {
    /// Thresholds of the probe.
    pub fn new(successes_needed: u64, failures_needed: u64) -> Self {
        Self { successes_needed, failures_needed, last: None, run: 0 }
    }

    /// Counts a result; answers the verdict once enough of the same came in a row.
    pub fn record(&mut self, success: bool) -> Option<bool> {
        self.run = if self.last == Some(success) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(success);
        let needed = if success { self.successes_needed } else { self.failures_needed };
        (self.run >= needed).then_some(success)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds() {
        for (successes, failures, results, expected) in [
            (1, 3, "+", "+"),
            (1, 3, "--", ".."),
            (1, 3, "---", "..-"),
            (1, 3, "--+--", "..+.."),
            (2, 1, "+-++", ".-.+"),
            (1, 1, "-+-", "-+-"),
        ] {
            let mut counter = Counter::new(successes, failures);
            let found: String = results
                .chars()
                .map(|result| match counter.record(result == '+') {
                    Some(true) => '+',
                    Some(false) => '-',
                    None => '.',
                })
                .collect();
            assert_eq!(found, expected, "{results}");
        }
    }
}
