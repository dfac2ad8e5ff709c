//! Times and durations as they are typed and shown.

use std::time::{Duration, SystemTime};

use prost_types::Timestamp;

/// Parses a count of seconds, minutes or hours: `660s`, `11m`, `2h`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wanted = || "a duration is a whole number with a unit: 660s, 11m or 2h".to_owned();
    let (count, seconds) = [('s', 1), ('m', 60), ('h', 3600)]
        .into_iter()
        .find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)))
        .ok_or_else(wanted)?;
    // `parse` alone would take a sign.
    if !count.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wanted());
    }
    let count: u64 = count.parse().map_err(|_| wanted())?;
    let seconds = count.checked_mul(seconds).ok_or_else(wanted)?;
    Ok(Duration::from_secs(seconds))
}

/// Parses a point in time: RFC 3339, or a day, which means its start in UTC. A secret that the
/// portal says expires on a day may end with its first minute.
pub(super) fn parse_time(text: &str) -> Result<Timestamp, String> {
    let wanted = || "a time looks like 2027-05-01 or 2027-05-01T12:00:00Z".to_owned();
    // The parser below takes more than RFC 3339: years of any length, times without a zone.
    let (day, time) = text.split_at_checked(10).ok_or_else(wanted)?;
    let is_day = day
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'-')
        && day.starts_with(|first: char| first.is_ascii_digit());
    let is_time_with_zone = time.starts_with('T') && time.contains(['Z', '+', '-']);
    if !is_day || !(time.is_empty() || is_time_with_zone) {
        return Err(wanted());
    }
    text.parse().map_err(|_| wanted())
}

/// A point in time in RFC 3339, to the second, in UTC.
pub(super) fn show_time(time: &Timestamp) -> String {
    let seconds = Timestamp { nanos: 0, ..*time };
    seconds.to_string()
}

/// The day of a point in time, in UTC.
pub(super) fn show_day(time: &Timestamp) -> String {
    let mut day = show_time(time);
    if let Some(end) = day.find('T') {
        day.truncate(end);
    }
    day
}

/// As [`show_time`].
pub(super) fn show_system_time(time: SystemTime) -> String {
    show_time(&Timestamp::from(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_whole_numbers_with_a_unit() {
        assert_eq!(parse_duration("660s"), Ok(Duration::from_secs(660)));
        assert_eq!(parse_duration("11m"), Ok(Duration::from_secs(660)));
        assert_eq!(parse_duration("2h"), Ok(Duration::from_secs(7200)));
        for text in [
            "",
            "s",
            "11",
            "-1s",
            "+1s",
            "1.5m",
            "1d",
            "11 m",
            "11mm",
            "1h30m",
            "99999999999999999999s",
            "9999999999999999999h",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_time_is_a_day_or_rfc_3339() {
        let day = parse_time("2027-05-01").expect("a day");
        assert_eq!(show_time(&day), "2027-05-01T00:00:00Z");
        let zone = parse_time("2027-05-01T02:00:00.5+02:00").expect("a time with an offset");
        assert_eq!(show_time(&zone), "2027-05-01T00:00:00Z");
        assert_eq!(show_day(&zone), "2027-05-01");
        for text in [
            "",
            "tomorrow",
            "2027-5-1",
            "2027-13-01",
            "2027-02-30",
            "01.05.2027",
            "2027-05-01T12:00:00",
            "2027-05-01 12:00:00Z",
            "2027-05-01Z",
            "+12027-05-01",
            "ä027-05-01",
        ] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }
}
