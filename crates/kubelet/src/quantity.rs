//! Resource quantities as the node counts them: milli-CPUs and bytes.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// A list of resources.
pub type Resources = BTreeMap<String, Quantity>;

/// Thousandths of a quantity, rounded up; `None` for text that is none. Saturates at the ends of `i128`.
pub fn milli(text: &str) -> Option<i128> {
    let text = text.trim();
    let split = text
        .char_indices()
        .find(|(at, c)| !(c.is_ascii_digit() || *c == '.' || (*at == 0 && (*c == '+' || *c == '-'))))
        .map_or(text.len(), |(at, _)| at);
    let (number, suffix) = text.split_at(split);
    let (numerator, denominator) = scale(suffix)?;
    let (negative, digits) = match number.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.len() > 18 || whole.len() > 18 {
        return None;
    }
    let mantissa: i128 = format!("{whole}{fraction}").parse().ok()?;
    let base = 10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?.checked_mul(denominator)?;
    let scaled = mantissa.checked_mul(numerator)?.checked_mul(1000)?;
    let up = scaled.checked_add(base - 1)? / base;
    Some(if negative { -(scaled / base) } else { up })
}

fn scale(suffix: &str) -> Option<(i128, i128)> {
    const TEN: i128 = 10;
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, TEN.pow(9)),
        "u" => (1, TEN.pow(6)),
        "m" => (1, TEN.pow(3)),
        "k" => (TEN.pow(3), 1),
        "M" => (TEN.pow(6), 1),
        "G" => (TEN.pow(9), 1),
        "T" => (TEN.pow(12), 1),
        "P" => (TEN.pow(15), 1),
        "E" => (TEN.pow(18), 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let size = TEN.checked_pow(power.unsigned_abs())?;
            if power < 0 { (1, size) } else { (size, 1) }
        }
    })
}

/// Whole units of a quantity, rounded up; zero for what cannot be read (the API refused that already).
pub fn value(quantity: &Quantity) -> i64 {
    let milli = milli(&quantity.0).unwrap_or(0);
    let units = if milli > 0 { (milli + 999) / 1000 } else { milli / 1000 };
    i64::try_from(units).unwrap_or(i64::MAX)
}

/// Thousandths of a quantity; zero for what cannot be read.
pub fn milli_value(quantity: &Quantity) -> i64 {
    i64::try_from(milli(&quantity.0).unwrap_or(0)).unwrap_or(i64::MAX)
}

/// Whole units of `name` in a list, if it is there.
pub fn get(list: Option<&Resources>, name: &str) -> Option<i64> {
    list?.get(name).map(value)
}

/// Thousandths of `name` in a list, if it is there.
pub fn get_milli(list: Option<&Resources>, name: &str) -> Option<i64> {
    list?.get(name).map(milli_value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        for (text, expected) in [
            ("1", Some(1000)),
            ("100m", Some(100)),
            ("0.5", Some(500)),
            (".5", Some(500)),
            ("1.5Gi", Some(1_610_612_736_000)),
            ("128Mi", Some(134_217_728_000)),
            ("1e3", Some(1_000_000)),
            ("1E", Some(1_000_000_000_000_000_000_000)),
            ("1n", Some(1)),
            ("-1", Some(-1000)),
            ("x", None),
            ("", None),
            ("1Xi", None),
        ] {
            assert_eq!(milli(text), expected, "{text}");
        }
        assert_eq!(value(&Quantity("1500m".into())), 2);
    }
}
