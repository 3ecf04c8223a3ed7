//! Durations as Go prints them.

use std::time::Duration;

/// `1h2m3.5s`, `2m0.25s`, `1.000001s`, `12.5ms`: what `time.Duration.String` writes, to the microsecond.
pub(crate) fn uptime(duration: Duration) -> String {
    let micros = duration.as_micros();
    let seconds = micros / 1_000_000;
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let rest = decimal(micros % 60_000_000, 6);
    match (hours, minutes, seconds) {
        (0, 0, 0) if micros < 1000 => format!("{micros}µs"),
        (0, 0, 0) => format!("{}ms", decimal(micros, 3)),
        (0, 0, _) => format!("{rest}s"),
        (0, ..) => format!("{minutes}m{rest}s"),
        _ => format!("{hours}h{minutes}m{rest}s"),
    }
}

/// `number` divided by ten to the power of `places`, without zeros at the end.
fn decimal(number: u128, places: u32) -> String {
    let unit = 10u128.pow(places);
    let width = places as usize;
    let text = format!("{}.{:0width$}", number / unit, number % unit);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_prints_them() {
        for (micros, text) in [
            (12, "12µs"),
            (12_500, "12.5ms"),
            (1_000_000, "1s"),
            (1_000_001, "1.000001s"),
            (60_000_000, "1m0s"),
            (120_250_000, "2m0.25s"),
            (3_723_500_000, "1h2m3.5s"),
            (360_000_000_000, "100h0m0s"),
        ] {
            assert_eq!(uptime(Duration::from_micros(micros)), text);
        }
    }
}
