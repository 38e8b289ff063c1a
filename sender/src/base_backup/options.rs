//! The options of BASE_BACKUP. Pure.
//!
//! Everything that PostgreSQL 15's clients may ask for is understood; what this server has no use for is checked all
//! the same: it has no tablespaces (`TABLESPACE_MAP`), its pages have no checksums of their own (`VERIFY_CHECKSUMS`),
//! and its checkpoints are never spread over time (`CHECKPOINT 'spread'`). Refused is what would give the client
//! something else than it asked for: a target other than the client, compression.
//!
//! Follows PostgreSQL 15 parse_basebackup_options() in src/backend/backup/basebackup.c.

use settings::value::parse_bool;
use wire::error::ErrorResponse;
use wire::replication::command::{CommandOption, OptionValue};
use wire::sqlstate::{
    FEATURE_NOT_SUPPORTED, INVALID_PARAMETER_VALUE, NUMERIC_VALUE_OUT_OF_RANGE, SYNTAX_ERROR, SqlState,
};

use super::checksum::Algorithm;

/// What is to be backed up, and how it is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupOptions {
    /// What the user calls this backup.
    pub label: String,
    /// Whether to tell the size beforehand, and how far it is on the way.
    pub progress: bool,
    /// Whether to wait until the archive has the log that the backup needs.
    pub wait: bool,
    /// Whether to send that log too.
    pub wal: bool,
    /// Most KiB per second.
    pub max_rate: Option<u32>,
    /// The manifest, if one is wanted.
    pub manifest: Option<ManifestOptions>,
}

/// How the manifest is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManifestOptions {
    /// The checksum of each file.
    pub checksums: Algorithm,
    /// Whether every path is written in hexadecimal digits, not only those that are no UTF-8.
    pub force_encode: bool,
}

const MAX_RATE_LOWER: u32 = 32;
const MAX_RATE_UPPER: u32 = 1_048_576;
/// Longest label, bytes.
const LABEL_MAX: usize = 1024;

/// What was given, before it is looked at as a whole.
#[derive(Default)]
struct Given<'a> {
    seen: Vec<&'a str>,
    label: Option<String>,
    progress: bool,
    no_wait: bool,
    wal: bool,
    max_rate: Option<u32>,
    manifest: Option<bool>,
    force_encode: bool,
    checksums: Option<Algorithm>,
    target: Option<String>,
    target_detail: Option<String>,
    compressed: bool,
    compression_detail: Option<String>,
}

impl BackupOptions {
    /// Reads the options in their order; the first that is wrong is the one that is told.
    ///
    /// # Errors
    /// PostgreSQL's: 42601 for most, 22003 for a rate out of range, 22023 for a label that is too long, 0A000 for what is
    /// not supported.
    pub fn parse(options: &[CommandOption]) -> Result<BackupOptions, ErrorResponse> {
        let mut given = Given::default();
        for option in options {
            given.take(option)?;
        }
        given.check_target()?;
        given.check_compression()?;
        let manifest = match (given.manifest, given.checksums) {
            (Some(true), checksums) => Some(ManifestOptions {
                checksums: checksums.unwrap_or(Algorithm::Crc32c),
                force_encode: given.force_encode,
            }),
            (_, Some(_)) => return syntax("manifest checksums require a backup manifest"),
            (_, None) => None,
        };
        Ok(BackupOptions {
            label: given.label.unwrap_or_else(|| "base backup".to_owned()),
            progress: given.progress,
            wait: !given.no_wait,
            wal: given.wal,
            max_rate: given.max_rate,
            manifest,
        })
    }
}

impl<'a> Given<'a> {
    fn take(&mut self, option: &'a CommandOption) -> Result<(), ErrorResponse> {
        let name = option.name.as_str();
        if !KNOWN.contains(&name) {
            return syntax(format!("unrecognized base backup option: \"{name}\""));
        }
        if self.seen.contains(&name) {
            return syntax(format!("duplicate option \"{name}\""));
        }
        self.seen.push(name);
        match name {
            "label" => self.label = Some(label(text(option)?)?),
            "progress" => self.progress = option.boolean()?,
            "checkpoint" => check_checkpoint(&text(option)?)?,
            "wait" => self.no_wait = !option.boolean()?,
            "wal" => self.wal = option.boolean()?,
            "max_rate" => self.max_rate = Some(max_rate(option)?),
            "manifest" => self.take_manifest(&text(option)?)?,
            "manifest_checksums" => self.checksums = Some(checksums(&text(option)?)?),
            "target" => self.target = Some(text(option)?),
            "target_detail" => self.target_detail = Some(text(option)?),
            "compression" => self.compressed = compressed(&text(option)?)?,
            "compression_detail" => self.compression_detail = Some(text(option)?),
            // Nothing comes of these here.
            _ => _ = option.boolean()?,
        }
        Ok(())
    }

    fn take_manifest(&mut self, word: &str) -> Result<(), ErrorResponse> {
        self.force_encode = word == "force-encode";
        self.manifest = if self.force_encode { Some(true) } else { parse_bool(word) };
        match self.manifest {
            Some(_) => Ok(()),
            None => syntax(format!("unrecognized manifest option: \"{word}\"")),
        }
    }

    fn check_target(&self) -> Result<(), ErrorResponse> {
        let Some(target) = &self.target else {
            return match self.target_detail {
                Some(_) => syntax("target detail cannot be used without target"),
                None => Ok(()),
            };
        };
        match (target.as_str(), &self.target_detail) {
            ("client" | "blackhole", Some(_)) => {
                syntax(format!("target \"{target}\" does not accept a target detail"))
            }
            ("client", None) => Ok(()),
            ("blackhole" | "server", _) => Err(ErrorResponse::error(
                FEATURE_NOT_SUPPORTED,
                format!("backup target \"{target}\" is not supported by this server"),
            )
            .with_hint("Backups go to the client.")),
            _ => error(FEATURE_NOT_SUPPORTED, format!("unrecognized target: \"{target}\"")),
        }
    }

    fn check_compression(&self) -> Result<(), ErrorResponse> {
        if self.compressed {
            return Err(ErrorResponse::error(
                FEATURE_NOT_SUPPORTED,
                "compression of base backups is not supported by this server",
            )
            .with_hint("Compress on the client's side."));
        }
        if self.compression_detail.is_none() {
            return Ok(());
        }
        syntax(if self.seen.contains(&"compression") {
            "invalid compression specification: compression algorithm \"none\" does not accept a compression level"
        } else {
            "compression detail cannot be specified unless compression is enabled"
        })
    }
}

const KNOWN: [&str; 14] = [
    "label",
    "progress",
    "checkpoint",
    "wait",
    "wal",
    "max_rate",
    "tablespace_map",
    "verify_checksums",
    "manifest",
    "manifest_checksums",
    "target",
    "target_detail",
    "compression",
    "compression_detail",
];

fn error<T>(code: SqlState, message: impl Into<String>) -> Result<T, ErrorResponse> {
    Err(ErrorResponse::error(code, message))
}

fn syntax<T>(message: impl Into<String>) -> Result<T, ErrorResponse> {
    error(SYNTAX_ERROR, message)
}

fn text(option: &CommandOption) -> Result<String, ErrorResponse> {
    match &option.value {
        Some(OptionValue::Text(text)) => Ok(text.clone()),
        Some(OptionValue::Number(number)) => Ok(number.to_string()),
        None => syntax(format!("{} requires a parameter", option.name)),
    }
}

fn label(text: String) -> Result<String, ErrorResponse> {
    if text.len() > LABEL_MAX {
        return error(INVALID_PARAMETER_VALUE, format!("backup label too long (max {LABEL_MAX} bytes)"));
    }
    Ok(text)
}

fn check_checkpoint(word: &str) -> Result<(), ErrorResponse> {
    match word.to_ascii_lowercase().as_str() {
        "fast" | "spread" => Ok(()),
        _ => syntax(format!("unrecognized checkpoint type: \"{word}\"")),
    }
}

fn max_rate(option: &CommandOption) -> Result<u32, ErrorResponse> {
    let Some(OptionValue::Number(rate)) = option.value else {
        return syntax("max_rate requires a numeric value");
    };
    if !(MAX_RATE_LOWER..=MAX_RATE_UPPER).contains(&rate) {
        let message = format!(
            "{rate} is outside the valid range for parameter \"MAX_RATE\" ({MAX_RATE_LOWER} .. {MAX_RATE_UPPER})"
        );
        return error(NUMERIC_VALUE_OUT_OF_RANGE, message);
    }
    Ok(rate)
}

fn checksums(word: &str) -> Result<Algorithm, ErrorResponse> {
    match Algorithm::from_name(word) {
        Some(algorithm) => Ok(algorithm),
        None => syntax(format!("unrecognized checksum algorithm: \"{word}\"")),
    }
}

/// Whether the client wants something else than the archive as it is.
fn compressed(word: &str) -> Result<bool, ErrorResponse> {
    match word.to_ascii_lowercase().as_str() {
        "none" => Ok(false),
        "gzip" | "lz4" | "zstd" => Ok(true),
        _ => syntax(format!("unrecognized compression algorithm: \"{word}\"")),
    }
}

#[cfg(test)]
mod tests {
    use wire::replication::command::{Command, ReplicationCommand, parse};

    use super::*;

    fn options(text: &str) -> Result<BackupOptions, ErrorResponse> {
        match parse(&format!("BASE_BACKUP{text}"))? {
            Command::Replication(ReplicationCommand::BaseBackup { options }) => {
                BackupOptions::parse(&options)
            }
            other => panic!("{text} is {other:?}"),
        }
    }

    #[test]
    fn pg_basebackup_gets_what_it_asks_for() {
        let asked = " ( LABEL 'pg_basebackup base backup',  PROGRESS,  WAL,  CHECKPOINT 'fast',  WAIT 0,  MAX_RATE 32768, TABLESPACE_MAP,  MANIFEST 'yes',  TARGET 'client')";
        assert_eq!(
            options(asked).unwrap(),
            BackupOptions {
                label: "pg_basebackup base backup".to_owned(),
                progress: true,
                wait: false,
                wal: true,
                max_rate: Some(32768),
                manifest: Some(ManifestOptions { checksums: Algorithm::Crc32c, force_encode: false }),
            }
        );
        let plain = options("").unwrap();
        assert!(plain.label == "base backup" && plain.wait && !plain.wal && plain.manifest.is_none());
        let manifest = |text: &str| options(text).unwrap().manifest;
        assert_eq!(manifest(" (MANIFEST 'no')"), None);
        assert_eq!(
            manifest(" (MANIFEST 'force-encode', MANIFEST_CHECKSUMS 'SHA256')"),
            Some(ManifestOptions { checksums: Algorithm::Sha256, force_encode: true })
        );
        assert!(manifest(" (MANIFEST 'true', MANIFEST_CHECKSUMS 'none')").is_some());
    }

    /// Every message and SQLSTATE as PostgreSQL 15.20 gave it, but for the last three, which are of this server alone.
    const WRONG: [(&str, &str, &str); 35] = [
        ("LABEL 'x', LABEL 'y'", "42601", "duplicate option \"label\""),
        ("FOO", "42601", "unrecognized base backup option: \"foo\""),
        ("FOO 'x', FOO 'y'", "42601", "unrecognized base backup option: \"foo\""),
        ("INCREMENTAL", "42601", "unrecognized base backup option: \"incremental\""),
        ("LABEL", "42601", "label requires a parameter"),
        ("PROGRESS, PROGRESS", "42601", "duplicate option \"progress\""),
        ("PROGRESS 'maybe'", "42601", "progress requires a Boolean value"),
        ("CHECKPOINT 'slow'", "42601", "unrecognized checkpoint type: \"slow\""),
        ("CHECKPOINT", "42601", "checkpoint requires a parameter"),
        ("WAIT 2", "42601", "wait requires a Boolean value"),
        ("WAIT 0, WAIT 1", "42601", "duplicate option \"wait\""),
        ("WAL, WAL", "42601", "duplicate option \"wal\""),
        ("MAX_RATE 31", "22003", "31 is outside the valid range for parameter \"MAX_RATE\" (32 .. 1048576)"),
        (
            "MAX_RATE 1048577",
            "22003",
            "1048577 is outside the valid range for parameter \"MAX_RATE\" (32 .. 1048576)",
        ),
        ("MAX_RATE 'x'", "42601", "max_rate requires a numeric value"),
        ("MAX_RATE", "42601", "max_rate requires a numeric value"),
        ("MAX_RATE 100, MAX_RATE 100", "42601", "duplicate option \"max_rate\""),
        ("TABLESPACE_MAP, TABLESPACE_MAP", "42601", "duplicate option \"tablespace_map\""),
        ("VERIFY_CHECKSUMS 'x'", "42601", "verify_checksums requires a Boolean value"),
        ("MANIFEST 'x'", "42601", "unrecognized manifest option: \"x\""),
        ("MANIFEST", "42601", "manifest requires a parameter"),
        ("MANIFEST 'yes', MANIFEST 'yes'", "42601", "duplicate option \"manifest\""),
        ("MANIFEST_CHECKSUMS 'sha1'", "42601", "unrecognized checksum algorithm: \"sha1\""),
        ("MANIFEST_CHECKSUMS 'crc32c'", "42601", "manifest checksums require a backup manifest"),
        (
            "MANIFEST 'no', MANIFEST_CHECKSUMS 'crc32c'",
            "42601",
            "manifest checksums require a backup manifest",
        ),
        ("TARGET 'x'", "0A000", "unrecognized target: \"x\""),
        ("TARGET 'client', TARGET 'client'", "42601", "duplicate option \"target\""),
        ("TARGET_DETAIL 'x'", "42601", "target detail cannot be used without target"),
        ("TARGET 'client', TARGET_DETAIL 'x'", "42601", "target \"client\" does not accept a target detail"),
        ("COMPRESSION 'foo'", "42601", "unrecognized compression algorithm: \"foo\""),
        (
            "COMPRESSION_DETAIL '9'",
            "42601",
            "compression detail cannot be specified unless compression is enabled",
        ),
        (
            "COMPRESSION 'none', COMPRESSION_DETAIL '9'",
            "42601",
            "invalid compression specification: compression algorithm \"none\" does not accept a compression level",
        ),
        ("TARGET 'blackhole'", "0A000", "backup target \"blackhole\" is not supported by this server"),
        (
            "TARGET 'server', TARGET_DETAIL '/x'",
            "0A000",
            "backup target \"server\" is not supported by this server",
        ),
        ("COMPRESSION 'gzip'", "0A000", "compression of base backups is not supported by this server"),
    ];

    #[test]
    fn what_is_wrong_is_told_in_postgresqls_words() {
        for (text, code, message) in WRONG {
            let error = options(&format!(" ( {text} )")).unwrap_err();
            assert_eq!((error.sqlstate.as_str(), error.message.as_str()), (code, message), "{text}");
        }
        let long = format!(" ( LABEL '{}' )", "x".repeat(1025));
        let error = options(&long).unwrap_err();
        assert_eq!(error.message, "backup label too long (max 1024 bytes)");
        assert_eq!(options(" LABEL 'x' PROGRESS").unwrap_err().message, "syntax error");
    }
}
