//! A schedule of five fields, and when it comes next. Pure.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use k8s_openapi::jiff::civil::{Date, DateTime};
use k8s_openapi::jiff::tz::TimeZone;

/// How far ahead a schedule is looked for: one that has no time in it (30 February) never comes.
const DAYS_AHEAD: usize = 5 * 366;
const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// When something comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// At the minutes that the fields allow; each is a set of bits.
    Fields {
        /// 0–59.
        minutes: u64,
        /// 0–23.
        hours: u64,
        /// 1–31.
        days: u64,
        /// 1–12.
        months: u64,
        /// 0–6, Sunday first.
        weekdays: u64,
        /// Are both days of the month and of the week restricted? Then one of them is enough.
        either_day: bool,
    },
    /// Every so often (`@every 1h30m`), in whole seconds.
    Every(Duration),
}

impl Schedule {
    /// Reads a schedule. The error is in words for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = match text.trim() {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        if let Some(every) = text.strip_prefix("@every ") {
            return corten_api::duration::nanos(every)
                .map(|nanos| Schedule::Every(Duration::from_nanos(nanos.max(0).unsigned_abs())))
                .map_err(|why| format!("failed to parse duration {text}: {why}"));
        }
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            return Err(format!("expected exactly 5 fields, found {}: [{text}]", fields.len()));
        };
        let free = |field: &str| field.starts_with('*') || field.starts_with('?');
        let weekdays = set(weekday, 0, 7, DAYS, 0)?;
        Ok(Schedule::Fields {
            minutes: set(minute, 0, 59, &[], 0)?,
            hours: set(hour, 0, 23, &[], 0)?,
            days: set(day, 1, 31, &[], 0)?,
            months: set(month, 1, 12, MONTHS, 1)?,
            // Sunday is 0 and 7.
            weekdays: (weekdays | (weekdays >> 7)) & 0x7f,
            either_day: !free(day) && !free(weekday),
        })
    }

    /// The first time after `after`.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let Schedule::Fields { minutes, hours, .. } = self else { return self.next_interval(after) };
        let start = zone.to_datetime(after);
        let mut date = start.date();
        for _ in 0..DAYS_AHEAD {
            if self.has_day(date) {
                for hour in (0..24i8).filter(|hour| has(*hours, *hour)) {
                    for minute in (0..60i8).filter(|minute| has(*minutes, *minute)) {
                        let time = moment(date.at(hour, minute, 0, 0), zone);
                        if let Some(time) = time.filter(|time| *time > after) {
                            return Some(time);
                        }
                    }
                }
            }
            date = date.tomorrow().ok()?;
        }
        None
    }

    fn next_interval(&self, after: Timestamp) -> Option<Timestamp> {
        let Schedule::Every(every) = self else { return None };
        let seconds = i64::try_from(every.as_secs()).ok()?.max(1);
        Timestamp::from_second(after.as_second().checked_add(seconds)?).ok()
    }

    fn has_day(&self, date: Date) -> bool {
        let Schedule::Fields { days, months, weekdays, either_day, .. } = self else { return false };
        let of_month = has(*days, date.day());
        let of_week = has(*weekdays, date.weekday().to_sunday_zero_offset());
        has(*months, date.month()) && if *either_day { of_month || of_week } else { of_month && of_week }
    }
}

/// A local time that a clock change leaves out does not come.
fn moment(at: DateTime, zone: &TimeZone) -> Option<Timestamp> {
    let found = zone.to_timestamp(at).ok()?;
    (zone.to_datetime(found) == at).then_some(found)
}

fn has(bits: u64, number: i8) -> bool {
    u32::try_from(number).is_ok_and(|n| bits & 1u64.checked_shl(n).unwrap_or_default() != 0)
}

/// One field: lists of `*`, `n`, `a-b`, each with `/step`. `base` is what the first name stands for.
fn set(field: &str, low: u32, high: u32, names: &[&str], base: u32) -> Result<u64, String> {
    let wrong = || format!("failed to parse {field}");
    let number = |text: &str| -> Result<u32, String> {
        let name = names.iter().position(|name| text.eq_ignore_ascii_case(name));
        let number = match name {
            Some(index) => u32::try_from(index).map_err(|_| wrong())? + base,
            None => text.parse().map_err(|_| wrong())?,
        };
        if (low..=high).contains(&number) { Ok(number) } else { Err(wrong()) }
    };
    let mut bits = 0u64;
    for part in field.split(',') {
        let (range, step) = part.split_once('/').unwrap_or((part, ""));
        let (first, last) = match range.split_once('-') {
            _ if range == "*" || range == "?" => (low, if high == 7 { 6 } else { high }),
            Some((first, last)) => (number(first)?, number(last)?),
            None if step.is_empty() => (number(range)?, number(range)?),
            None => (number(range)?, high),
        };
        let step: usize = if step.is_empty() { 1 } else { step.parse().map_err(|_| wrong())? };
        if first > last || step == 0 {
            return Err(wrong());
        }
        bits = (first..=last).step_by(step).fold(bits, |bits, n| bits | 1 << n);
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_time_of_a_schedule() {
        let table = [
            ("*/5 * * * *", "2026-01-01T00:03:10Z", "2026-01-01T00:05:00Z"),
            ("0 0 * * *", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
            ("@hourly", "2026-01-01T22:59:59Z", "2026-01-01T23:00:00Z"),
            ("30 4 1,15 * 5", "2026-01-01T05:00:00Z", "2026-01-02T04:30:00Z"),
            ("0 12 * * mon-wed", "2026-01-01T00:00:00Z", "2026-01-05T12:00:00Z"),
            ("0 0 29 2 *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 0 * * 7", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
            ("15 10 * JUL ?", "2026-01-01T00:00:00Z", "2026-07-01T10:15:00Z"),
            ("@every 1h30m", "2026-01-01T00:00:00Z", "2026-01-01T01:30:00Z"),
        ];
        for (schedule, after, expected) in table {
            let next = Schedule::parse(schedule).unwrap().next(after.parse().unwrap(), &TimeZone::UTC);
            assert_eq!(next, Some(expected.parse().unwrap()), "{schedule}");
        }
        let never = Schedule::parse("0 0 30 2 *").unwrap();
        assert_eq!(never.next("2026-01-01T00:00:00Z".parse().unwrap(), &TimeZone::UTC), None);
    }

    #[test]
    fn what_is_no_schedule() {
        for bad in
            ["", "* * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "5-1 * * * *", "*/0 * * * *", "@every x"]
        {
            assert!(Schedule::parse(bad).is_err(), "{bad}");
        }
    }
}
