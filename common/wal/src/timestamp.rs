//! A moment as the log and the replication protocol write it: microseconds since 2000-01-01 00:00 UTC.

use std::fmt;

/// Microseconds since 2000-01-01 00:00:00 UTC (negative before).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub i64);

/// Seconds from the Unix epoch to 2000-01-01 00:00 UTC.
const EPOCH_UNIX_SECONDS: i64 = 946_684_800;
const MICROS_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

impl Timestamp {
    /// The moment `micros` microseconds after the Unix epoch. Saturates at the ends of the range.
    pub const fn from_unix_micros(micros: i64) -> Timestamp {
        Timestamp(micros.saturating_sub(EPOCH_UNIX_SECONDS * MICROS_PER_SECOND))
    }

    /// Microseconds since the Unix epoch. Saturates at the ends of the range.
    pub const fn unix_micros(self) -> i64 {
        self.0.saturating_add(EPOCH_UNIX_SECONDS * MICROS_PER_SECOND)
    }

    /// Whole seconds since the Unix epoch (rounded down), as checkpoint records hold them.
    pub const fn unix_seconds(self) -> i64 {
        self.unix_micros().div_euclid(MICROS_PER_SECOND)
    }
}

impl fmt::Display for Timestamp {
    /// PostgreSQL's timestamptz in UTC: `2026-11-21 02:25:23.1234+00` (no trailing zeros in the fraction).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.unix_micros();
        let seconds = micros.div_euclid(MICROS_PER_SECOND);
        let fraction = micros.rem_euclid(MICROS_PER_SECOND);
        let (year, month, day) = civil_from_days(seconds.div_euclid(SECONDS_PER_DAY));
        let in_day = seconds.rem_euclid(SECONDS_PER_DAY);
        let (shown_year, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
        write!(f, "{shown_year:04}-{month:02}-{day:02} ")?;
        write!(f, "{:02}:{:02}:{:02}", in_day / 3600, in_day / 60 % 60, in_day % 60)?;
        if fraction != 0 {
            write!(f, ".{}", format!("{fraction:06}").trim_end_matches('0'))?;
        }
        write!(f, "+00{era}")
    }
}

/// The Gregorian date that lies `days` after 1970-01-01 (year, month 1-12, day 1-31; year 0 is 1 BC).
///
/// Counts in eras of 400 years (146,097 days) from a year that begins in March, so that the leap day is a year's last.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let since_march_0000 = days + 719_468;
    let era = since_march_0000.div_euclid(146_097);
    let day_of_era = since_march_0000.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamp_shown_as_postgresql_does() {
        for (unix_micros, text) in [
            (946_684_800_000_000, "2000-01-01 00:00:00+00"),
            (0, "1970-01-01 00:00:00+00"),
            (-1, "1969-12-31 23:59:59.999999+00"),
            (951_782_400_500_000, "2000-02-29 00:00:00.5+00"),
            (1_795_227_923_123_456, "2026-11-21 02:25:23.123456+00"),
            (4_107_542_399_000_001, "2100-02-28 23:59:59.000001+00"),
            (4_107_542_400_000_000, "2100-03-01 00:00:00+00"),
        ] {
            assert_eq!(Timestamp::from_unix_micros(unix_micros).to_string(), text);
        }
    }

    #[test]
    fn timestamp_extremes_do_not_panic() {
        assert!(!Timestamp(i64::MIN).to_string().is_empty());
        assert!(!Timestamp(i64::MAX).to_string().is_empty());
        assert!(!Timestamp::from_unix_micros(i64::MIN).to_string().is_empty());
    }
}
