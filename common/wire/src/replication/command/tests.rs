use proptest::prelude::*;

use super::*;

fn command(text: &str) -> ReplicationCommand {
    match parse(text) {
        Ok(Command::Replication(command)) => command,
        other => panic!("{text}: {other:?}"),
    }
}

fn start(slot: Option<&str>, start: u64, timeline: Option<u32>) -> ReplicationCommand {
    ReplicationCommand::StartReplication(StartReplication {
        slot: slot.map(str::to_owned),
        start: Lsn(start),
        timeline: timeline.map(TimelineId),
    })
}

fn create(slot: &str, temporary: bool, kind: SlotKind) -> ReplicationCommand {
    ReplicationCommand::CreateReplicationSlot(CreateReplicationSlot {
        slot: slot.to_owned(),
        temporary,
        kind,
    })
}

fn option(name: &str, value: Option<OptionValue>) -> CommandOption {
    CommandOption { name: name.to_owned(), value }
}

#[test]
fn commands_parsed() {
    let slot = "s1".to_owned();
    let physical = SlotKind::Physical { reserve_wal: false };
    let reserving = SlotKind::Physical { reserve_wal: true };
    for (text, expected) in [
        ("IDENTIFY_SYSTEM", ReplicationCommand::IdentifySystem),
        (" \n IDENTIFY_SYSTEM ; ", ReplicationCommand::IdentifySystem),
        ("SHOW wal_segment_size", ReplicationCommand::Show { name: "wal_segment_size".to_owned() }),
        ("SHOW Foo . \"Bar\"", ReplicationCommand::Show { name: "foo.Bar".to_owned() }),
        ("TIMELINE_HISTORY 2", ReplicationCommand::TimelineHistory { timeline: TimelineId(2) }),
        ("START_REPLICATION 0/A00000 TIMELINE 1", start(None, 0xA0_0000, Some(1))),
        ("START_REPLICATION DEAD/BEEF", start(None, 0xDEAD_0000_BEEF, None)),
        ("START_REPLICATION SLOT \"S\"\"1\" PHYSICAL 1/0;", start(Some("S\"1"), 1 << 32, None)),
        ("START_REPLICATION SLOT Ab$9 1/0TIMELINE 4294967295", start(Some("ab$9"), 1 << 32, Some(u32::MAX))),
        ("START_REPLICATION SLOT x LOGICAL 0/0 (a '1', b)", ReplicationCommand::StartLogicalReplication),
        ("READ_REPLICATION_SLOT s1", ReplicationCommand::ReadReplicationSlot { slot: slot.clone() }),
        ("CREATE_REPLICATION_SLOT \"s1\" PHYSICAL", create("s1", false, physical)),
        ("CREATE_REPLICATION_SLOT s1 TEMPORARY PHYSICAL RESERVE_WAL", create("s1", true, reserving)),
        ("CREATE_REPLICATION_SLOT s1 PHYSICAL ( RESERVE_WAL)", create("s1", false, reserving)),
        ("CREATE_REPLICATION_SLOT s1 PHYSICAL (reserve_wal 'off')", create("s1", false, physical)),
        (
            "CREATE_REPLICATION_SLOT s1 LOGICAL p NOEXPORT_SNAPSHOT TWO_PHASE",
            create("s1", false, SlotKind::Logical),
        ),
        ("CREATE_REPLICATION_SLOT s1 LOGICAL p (SNAPSHOT 'nothing')", create("s1", false, SlotKind::Logical)),
        (
            "DROP_REPLICATION_SLOT s1",
            ReplicationCommand::DropReplicationSlot { slot: slot.clone(), wait: false },
        ),
        ("DROP_REPLICATION_SLOT s1 WAIT", ReplicationCommand::DropReplicationSlot { slot, wait: true }),
        ("BASE_BACKUP", ReplicationCommand::BaseBackup { options: vec![] }),
    ] {
        assert_eq!(command(text), expected, "{text}");
    }
}

#[test]
fn base_backup_as_pg_basebackup_sends_it() {
    let text = |text: &str| Some(OptionValue::Text(text.to_owned()));
    let options = vec![
        option("label", text("my'label")),
        option("progress", None),
        option("checkpoint", text("fast")),
        option("wait", Some(OptionValue::Number(0))),
        option("manifest", text("yes")),
        option("target", text("client")),
    ];
    let sent = "BASE_BACKUP ( LABEL 'my''label',  PROGRESS,  CHECKPOINT 'fast',  WAIT 0,  MANIFEST 'yes',  TARGET 'client')";
    assert_eq!(command(sent), ReplicationCommand::BaseBackup { options });
}

#[test]
fn long_slot_name_is_cut() {
    let text = format!("READ_REPLICATION_SLOT {}", "s".repeat(70));
    assert_eq!(command(&text), ReplicationCommand::ReadReplicationSlot { slot: "s".repeat(63) });
}

#[test]
fn other_texts_are_sql() {
    for text in [
        "",
        ";",
        "identify_system",
        "IDENTIFY_SYSTEMx",
        "(IDENTIFY_SYSTEM)",
        "SELECT 1",
        "show all",
        "!",
        "\"",
        "é",
    ] {
        assert_eq!(parse(text), Ok(Command::Sql), "{text}");
    }
}

// The texts are what PostgreSQL 15 answers to the same commands.
#[test]
fn wrong_commands_named_as_postgresql_does() {
    for (text, message) in [
        ("IDENTIFY_SYSTEM x", "syntax error"),
        ("IDENTIFY_SYSTEM ;;", "syntax error"),
        ("TIMELINE_HISTORY 0", "invalid timeline 0"),
        ("TIMELINE_HISTORY x", "syntax error"),
        ("TIMELINE_HISTORY 1 -- c", "syntax error"),
        ("TIMELINE_HISTORY 99999999999", "syntax error"),
        ("SHOW TIMELINE", "syntax error"),
        ("SHOW a.", "syntax error"),
        ("SHOW \"", "unterminated quoted string"),
        ("SHOW '", "unterminated quoted string"),
        ("START_REPLICATION", "syntax error"),
        ("START_REPLICATION 0/0 TIMELINE 0", "invalid timeline 0"),
        ("START_REPLICATION 123456789/0", "syntax error"),
        ("START_REPLICATION LOGICAL 0/0", "syntax error"),
        ("DROP_REPLICATION_SLOT a b", "syntax error"),
        ("CREATE_REPLICATION_SLOT a", "syntax error"),
        ("CREATE_REPLICATION_SLOT a TEMPORARY PHYSICAL ()", "syntax error"),
        ("CREATE_REPLICATION_SLOT a PHYSICAL (reserve_wal, reserve_wal)", "conflicting or redundant options"),
        ("CREATE_REPLICATION_SLOT a PHYSICAL (reserve_wal 7)", "reserve_wal requires a Boolean value"),
        ("CREATE_REPLICATION_SLOT a PHYSICAL RESERVE_WAL x", "syntax error"),
        ("BASE_BACKUP (", "syntax error"),
        ("BASE_BACKUP (a", "syntax error"),
        ("BASE_BACKUP (a,)", "syntax error"),
        ("BASE_BACKUP (a 1/2)", "syntax error"),
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!((error.sqlstate, error.message.as_str()), (SYNTAX_ERROR, message), "{text}");
    }
    let error = parse("CREATE_REPLICATION_SLOT a PHYSICAL (foo)").unwrap_err();
    assert_eq!((error.sqlstate.as_str(), error.message.as_str()), ("XX000", "unrecognized option: foo"));
}

proptest! {
    #[test]
    fn random_commands_never_panic(
        word in prop::sample::select(vec!["IDENTIFY_SYSTEM", "SHOW", "START_REPLICATION", "CREATE_REPLICATION_SLOT", "BASE_BACKUP"]),
        rest in "[ A-F0-9/'\"(),;.é$_a-c]{0,30}",
    ) {
        let _ = parse(&format!("{word} {rest}"));
        let _ = parse(&rest);
    }

    #[test]
    fn position_and_timeline_survive(position: u64, timeline in 1u32..) {
        let text = format!("START_REPLICATION {} TIMELINE {timeline}", Lsn(position));
        prop_assert_eq!(command(&text), start(None, position, Some(timeline)));
    }
}
