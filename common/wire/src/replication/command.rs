//! Replication commands: what a walsender is asked to do.
//!
//! How to use it: [`parse`] tells a replication command from SQL by its first word and parses the former into a
//! [`ReplicationCommand`]. Commands are parsed whether or not the server can do them: who executes them says 0A000.
//!
//! Follows PostgreSQL 15 src/backend/replication/repl_gram.y (the grammar stands in the functions' comments).

use std::vec::IntoIter;

use wal::lsn::Lsn;
use wal::timeline::TimelineId;

use super::lexer::{Token, first_word, syntax_error, tokens};
use crate::error::ErrorResponse;
use crate::sqlstate::{INTERNAL_ERROR, SYNTAX_ERROR};

/// What a query text on a replication connection is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A replication command.
    Replication(ReplicationCommand),
    /// Something else, hence SQL.
    Sql,
}

/// A replication command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplicationCommand {
    /// Who are you, and where is your log.
    IdentifySystem,
    /// The value of a setting.
    Show {
        /// Its name, with the dots of a name in parts.
        name: String,
    },
    /// The history file of a timeline.
    TimelineHistory {
        /// Never zero.
        timeline: TimelineId,
    },
    /// Stream the log.
    StartReplication(StartReplication),
    /// Stream changes decoded by a plugin.
    StartLogicalReplication,
    /// What a slot is and holds.
    ReadReplicationSlot {
        /// The slot's name.
        slot: String,
    },
    /// Make a slot.
    CreateReplicationSlot(CreateReplicationSlot),
    /// Drop a slot.
    DropReplicationSlot {
        /// The slot's name.
        slot: String,
        /// Whether to wait until nobody uses it, rather than fail.
        wait: bool,
    },
    /// Send a copy of everything.
    BaseBackup {
        /// What was asked for, in the order written.
        options: Vec<CommandOption>,
    },
}

impl ReplicationCommand {
    /// The command's first word, which is also its command tag.
    pub fn name(&self) -> &'static str {
        match self {
            ReplicationCommand::IdentifySystem => "IDENTIFY_SYSTEM",
            ReplicationCommand::Show { .. } => "SHOW",
            ReplicationCommand::TimelineHistory { .. } => "TIMELINE_HISTORY",
            ReplicationCommand::StartReplication(_) | ReplicationCommand::StartLogicalReplication => {
                "START_REPLICATION"
            }
            ReplicationCommand::ReadReplicationSlot { .. } => "READ_REPLICATION_SLOT",
            ReplicationCommand::CreateReplicationSlot(_) => "CREATE_REPLICATION_SLOT",
            ReplicationCommand::DropReplicationSlot { .. } => "DROP_REPLICATION_SLOT",
            ReplicationCommand::BaseBackup { .. } => "BASE_BACKUP",
        }
    }
}

/// START_REPLICATION, physical.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartReplication {
    /// The slot to hold the log with.
    pub slot: Option<String>,
    /// From where.
    pub start: Lsn,
    /// On which timeline; the server's own when not said. Never zero.
    pub timeline: Option<TimelineId>,
}

/// CREATE_REPLICATION_SLOT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateReplicationSlot {
    /// The slot's name.
    pub slot: String,
    /// Whether the slot goes with the session.
    pub temporary: bool,
    /// What is streamed with it.
    pub kind: SlotKind,
}

/// What a slot is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotKind {
    /// The log.
    Physical {
        /// Whether to hold the log from now on, not from the first use on.
        reserve_wal: bool,
    },
    /// Decoded changes.
    Logical,
}

/// An option in parentheses: a name and perhaps a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandOption {
    /// In lower case unless it was quoted.
    pub name: String,
    /// What follows the name.
    pub value: Option<OptionValue>,
}

/// The value of an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OptionValue {
    /// A word or a quoted text.
    Text(String),
    /// A number.
    Number(u32),
}

impl CommandOption {
    /// The option as a boolean: no value is true.
    ///
    /// # Errors
    /// 42601: the value is none.
    pub fn boolean(&self) -> Result<bool, ErrorResponse> {
        let word = match &self.value {
            None | Some(OptionValue::Number(1)) => return Ok(true),
            Some(OptionValue::Number(0)) => return Ok(false),
            Some(OptionValue::Text(word)) => word.to_ascii_lowercase(),
            Some(OptionValue::Number(_)) => String::new(),
        };
        match word.as_str() {
            "true" | "on" => Ok(true),
            "false" | "off" => Ok(false),
            _ => Err(ErrorResponse::error(SYNTAX_ERROR, format!("{} requires a Boolean value", self.name))),
        }
    }
}

/// What `text` asks for.
///
/// # Errors
/// 42601: it begins as a replication command and goes on as none.
pub fn parse(text: &str) -> Result<Command, ErrorResponse> {
    let parse_rest: fn(&mut Parser) -> Result<ReplicationCommand, ErrorResponse> = match first_word(text) {
        "IDENTIFY_SYSTEM" => |_| Ok(ReplicationCommand::IdentifySystem),
        "SHOW" => Parser::show,
        "TIMELINE_HISTORY" => Parser::timeline_history,
        "START_REPLICATION" => Parser::start_replication,
        "READ_REPLICATION_SLOT" => {
            |parser| Ok(ReplicationCommand::ReadReplicationSlot { slot: parser.expect_identifier()? })
        }
        "CREATE_REPLICATION_SLOT" => Parser::create_replication_slot,
        "DROP_REPLICATION_SLOT" => |parser| {
            let slot = parser.expect_identifier()?;
            Ok(ReplicationCommand::DropReplicationSlot { slot, wait: parser.take_word("WAIT") })
        },
        "BASE_BACKUP" => Parser::base_backup,
        _ => return Ok(Command::Sql),
    };
    let mut parser = Parser { tokens: tokens(text)?.into_iter() };
    parser.next();
    let command = parse_rest(&mut parser)?;
    parser.take_symbol(';');
    match parser.next() {
        None => Ok(Command::Replication(command)),
        Some(_) => Err(syntax_error()),
    }
}

/// The tokens still to be read.
struct Parser {
    tokens: IntoIter<Token>,
}

impl Parser {
    fn next(&mut self) -> Option<Token> {
        self.tokens.next()
    }

    fn take_if(&mut self, wanted: impl Fn(&Token) -> bool) -> bool {
        let found = self.tokens.as_slice().first().is_some_and(wanted);
        if found {
            self.next();
        }
        found
    }

    fn take_word(&mut self, keyword: &str) -> bool {
        self.take_if(|token| matches!(token, Token::Word(word) if word == keyword))
    }

    fn take_symbol(&mut self, symbol: char) -> bool {
        self.take_if(|token| *token == Token::Symbol(symbol))
    }

    fn expect_word(&mut self, keyword: &str) -> Result<(), ErrorResponse> {
        if self.take_word(keyword) { Ok(()) } else { Err(syntax_error()) }
    }

    fn expect_identifier(&mut self) -> Result<String, ErrorResponse> {
        self.next().and_then(Token::into_identifier).ok_or_else(syntax_error)
    }

    fn expect_position(&mut self) -> Result<Lsn, ErrorResponse> {
        match self.next() {
            Some(Token::Position(position)) => Ok(position),
            _ => Err(syntax_error()),
        }
    }

    fn expect_timeline(&mut self) -> Result<TimelineId, ErrorResponse> {
        match self.next() {
            Some(Token::Number(0)) => Err(ErrorResponse::error(SYNTAX_ERROR, "invalid timeline 0")),
            Some(Token::Number(number)) => Ok(TimelineId(number)),
            _ => Err(syntax_error()),
        }
    }

    /// `SHOW name [. name]…`
    fn show(&mut self) -> Result<ReplicationCommand, ErrorResponse> {
        let mut name = self.expect_identifier()?;
        while self.take_symbol('.') {
            name.push('.');
            name.push_str(&self.expect_identifier()?);
        }
        Ok(ReplicationCommand::Show { name })
    }

    /// `TIMELINE_HISTORY number`
    fn timeline_history(&mut self) -> Result<ReplicationCommand, ErrorResponse> {
        Ok(ReplicationCommand::TimelineHistory { timeline: self.expect_timeline()? })
    }

    /// `START_REPLICATION [SLOT name] [PHYSICAL] position [TIMELINE number]`, or
    /// `START_REPLICATION SLOT name LOGICAL position [options]`
    fn start_replication(&mut self) -> Result<ReplicationCommand, ErrorResponse> {
        let slot = if self.take_word("SLOT") { Some(self.expect_identifier()?) } else { None };
        if slot.is_some() && self.take_word("LOGICAL") {
            self.expect_position()?;
            self.options()?;
            return Ok(ReplicationCommand::StartLogicalReplication);
        }
        self.take_word("PHYSICAL");
        let start = self.expect_position()?;
        let timeline = if self.take_word("TIMELINE") { Some(self.expect_timeline()?) } else { None };
        Ok(ReplicationCommand::StartReplication(StartReplication { slot, start, timeline }))
    }

    /// `CREATE_REPLICATION_SLOT name [TEMPORARY] PHYSICAL [RESERVE_WAL | options]`, or
    /// `CREATE_REPLICATION_SLOT name [TEMPORARY] LOGICAL plugin [EXPORT_SNAPSHOT … | options]`
    fn create_replication_slot(&mut self) -> Result<ReplicationCommand, ErrorResponse> {
        let slot = self.expect_identifier()?;
        let temporary = self.take_word("TEMPORARY");
        let kind = if self.take_word("LOGICAL") {
            self.expect_identifier()?;
            let legacy = ["EXPORT_SNAPSHOT", "NOEXPORT_SNAPSHOT", "USE_SNAPSHOT", "TWO_PHASE"];
            if self.options()?.is_empty() {
                while legacy.iter().any(|word| self.take_word(word)) {}
            }
            SlotKind::Logical
        } else {
            self.expect_word("PHYSICAL")?;
            let reserve_wal = self.take_word("RESERVE_WAL") || reserve_wal(&self.options()?)?;
            SlotKind::Physical { reserve_wal }
        };
        Ok(ReplicationCommand::CreateReplicationSlot(CreateReplicationSlot { slot, temporary, kind }))
    }

    /// `BASE_BACKUP [options]`
    fn base_backup(&mut self) -> Result<ReplicationCommand, ErrorResponse> {
        Ok(ReplicationCommand::BaseBackup { options: self.options()? })
    }

    /// Nothing, or `( name [value] [, name [value]]… )`
    fn options(&mut self) -> Result<Vec<CommandOption>, ErrorResponse> {
        let mut options = Vec::new();
        if !self.take_symbol('(') {
            return Ok(options);
        }
        loop {
            options.push(self.option()?);
            match self.next() {
                Some(Token::Symbol(',')) => {}
                Some(Token::Symbol(')')) => return Ok(options),
                _ => return Err(syntax_error()),
            }
        }
    }

    fn option(&mut self) -> Result<CommandOption, ErrorResponse> {
        let name = word_or_keyword(self.next().ok_or_else(syntax_error)?).ok_or_else(syntax_error)?;
        let value = match self.tokens.as_slice().first() {
            Some(Token::Symbol(_)) | None => None,
            Some(_) => match self.next().ok_or_else(syntax_error)? {
                Token::Text(text) => Some(OptionValue::Text(text)),
                Token::Number(number) => Some(OptionValue::Number(number)),
                token => Some(OptionValue::Text(word_or_keyword(token).ok_or_else(syntax_error)?)),
            },
        };
        Ok(CommandOption { name, value })
    }
}

/// In the place of an option's name or value a keyword is as good as an identifier.
fn word_or_keyword(token: Token) -> Option<String> {
    match token {
        Token::Word(word) => Some(word.to_ascii_lowercase()),
        token => token.into_identifier(),
    }
}

/// The options of a physical slot: `reserve_wal` alone.
fn reserve_wal(options: &[CommandOption]) -> Result<bool, ErrorResponse> {
    let mut reserve = None;
    for option in options {
        if option.name != "reserve_wal" {
            let message = format!("unrecognized option: {}", option.name);
            return Err(ErrorResponse::error(INTERNAL_ERROR, message));
        }
        if reserve.replace(option.boolean()?).is_some() {
            return Err(ErrorResponse::error(SYNTAX_ERROR, "conflicting or redundant options"));
        }
    }
    Ok(reserve.unwrap_or(false))
}

#[cfg(test)]
mod tests;
