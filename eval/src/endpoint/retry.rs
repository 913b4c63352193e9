//! When to ask again.

use std::time::Duration;

use datasets::random::Draws;
use ureq::http::HeaderMap;

/// The first wait, doubled with every attempt up to [`LONGEST_SECS`].
const FIRST_SECS: f64 = 0.5;
const LONGEST_SECS: f64 = 60.0;
/// No server may make an evaluation sleep for longer at a time.
const LONGEST_ASKED_SECS: f64 = 600.0;

/// How long the server asks to wait, in `retry-after-ms` or the seconds of `retry-after`. The
/// header's other form, a date, is passed over: clocks differ, and the back-off does as well.
pub(super) fn after(headers: &HeaderMap) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<f64>().ok();
    let secs = number("retry-after-ms")
        .map(|ms| ms / 1000.0)
        .or_else(|| number("retry-after"))?;
    (secs >= 0.0).then(|| Duration::from_secs_f64(secs.min(LONGEST_ASKED_SECS)))
}

/// How long to wait after a failed attempt (counted from 0): exponential, with half of it drawn, so
/// that workers that were turned away together do not come back together. A draw is a function of
/// the seed, the item and the attempt.
pub(super) fn wait(seed: u64, item: &str, attempt: u32, asked: Option<Duration>) -> Duration {
    let draws = Draws::new(seed, "endpoint back-off");
    let draw = draws.of(&format!("{item}#{attempt}")) as f64 / u64::MAX as f64;
    let doubled = FIRST_SECS * 2f64.powi(attempt.min(16) as i32);
    let own = Duration::from_secs_f64(doubled.min(LONGEST_SECS) * (0.5 + 0.5 * draw));
    asked.map_or(own, |asked| own.max(asked))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_with_jitter_up_to_a_minute() {
        for attempt in 0..40 {
            let full = (0.5 * 2f64.powi(attempt)).min(60.0);
            let secs = wait(7, "pubmedqa/3", attempt as u32, None).as_secs_f64();
            assert!((0.5 * full..=full).contains(&secs), "{attempt}: {secs}");
        }
        let of = |seed, item| wait(seed, item, 2, None);
        assert_eq!(of(7, "a"), of(7, "a"));
        assert_ne!(of(7, "a"), of(8, "a"));
        assert_ne!(of(7, "a"), of(7, "b"));
    }

    #[test]
    fn what_the_server_asks_is_the_least() {
        let asked = Some(Duration::from_secs(17));
        assert_eq!(wait(7, "a", 0, asked), Duration::from_secs(17));
        assert!(wait(7, "a", 10, asked) > Duration::from_secs(17));
    }

    #[test]
    fn headers_in_seconds_and_milliseconds() {
        let of = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            after(&headers)
        };
        assert_eq!(of("retry-after", "3"), Some(Duration::from_secs(3)));
        assert_eq!(
            of("retry-after", " 0.25 "),
            Some(Duration::from_millis(250))
        );
        assert_eq!(of("retry-after-ms", "40"), Some(Duration::from_millis(40)));
        let most = Some(Duration::from_secs(600));
        assert_eq!(of("retry-after", "1e300"), most);
        assert_eq!(of("retry-after", "inf"), most);
        for none in ["-1", "NaN", "soon", "Wed, 21 Oct 2026 07:28:00 GMT"] {
            assert_eq!(of("retry-after", none), None, "{none}");
        }
    }
}
