//! What clients have asked for, and which states of the tables that allows at a moment.
//!
//! Every key belongs to one client, and a client sends a statement when the one before is answered. So the rows of a
//! client are always those after its first n statements, for some n; what was acknowledged bounds n from below. The clients
//! send in rounds, and nobody begins a round before all of the last one are answered; so if a statement is there, all
//! of the earlier rounds are: what survives is a prefix of history.

use std::collections::BTreeMap;

use super::messages::Messages;
use super::trace::Moment;

/// Table and key; a table itself stands under the empty key.
pub type Key = (String, String);

/// Every row of every table.
pub type Rows = BTreeMap<Key, String>;

/// What a statement does to one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The row is there with this body.
    Put(Key, String),
    /// The row is gone.
    Remove(Key),
}

impl Effect {
    fn apply(&self, rows: &mut Rows) {
        match self {
            Effect::Put(key, body) => {
                rows.insert(key.clone(), body.clone());
            }
            // A dropped table takes its rows along.
            Effect::Remove((table, key)) if key.is_empty() => rows.retain(|(of, _), _| of != table),
            Effect::Remove(key) => {
                rows.remove(key);
            }
        }
    }
}

/// A statement of a client, or several that are sent as one.
#[derive(Clone, Debug)]
pub struct Statement {
    /// The text.
    pub sql: String,
    /// What it does.
    pub effects: Vec<Effect>,
    /// The round in which it was sent.
    pub round: u32,
    /// Backend and number of the answer in its session; that of a later read, if it went unanswered and the read showed
    /// what it did.
    pub answer: (u32, usize),
    /// Whether the client got a good answer.
    pub acknowledged: bool,
}

/// A client's part.
#[derive(Clone, Debug, Default)]
pub struct ClientHistory {
    /// What it sent, in order, but for what is known to have been lost unanswered.
    pub statements: Vec<Statement>,
    /// So many of them were there for good when the present life of the node began.
    pub settled: usize,
}

impl ClientHistory {
    /// Its rows after the first `count` statements.
    pub fn rows_after(&self, count: usize) -> Rows {
        let mut rows = Rows::new();
        self.statements[..count]
            .iter()
            .flat_map(|statement| &statement.effects)
            .for_each(|e| e.apply(&mut rows));
        rows
    }

    /// How many statements can have been executed, at least `required`, that these are the rows.
    fn counts(&self, rows: &Rows, required: usize) -> Vec<usize> {
        let mut now = self.rows_after(required);
        let mut counts = Vec::new();
        for count in required..=self.statements.len() {
            if now == *rows {
                counts.push(count);
            }
            if let Some(next) = self.statements.get(count) {
                next.effects.iter().for_each(|effect| effect.apply(&mut now));
            }
        }
        counts
    }
}

/// All clients, over all lives of a node.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// By number of client.
    pub clients: Vec<ClientHistory>,
}

/// The client that a row belongs to.
pub fn owner((table, key): &Key) -> usize {
    let number = if let Some(own) = table.strip_prefix("own_") { own } else { key };
    number.split(['_', '.']).next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// How many statements of each client are bound to be there.
pub type Required = Vec<usize>;

impl History {
    /// `count` clients that have done nothing.
    pub fn new(count: usize) -> History {
        History { clients: vec![ClientHistory::default(); count] }
    }

    /// What was acknowledged by a moment of the present life.
    pub fn required(&self, messages: &Messages, moment: Moment) -> Required {
        self.last(|statement| {
            let (pid, number) = statement.answer;
            let answer = messages.answers.get(&pid).and_then(|answers| answers.get(number));
            statement.acknowledged && answer.is_some_and(|answer| answer.success && answer.moment <= moment)
        })
    }

    /// What was acknowledged by its end.
    pub fn acknowledged(&self) -> Required {
        self.last(|statement| statement.acknowledged)
    }

    /// How many statements of each client there are up to the last of the present life for which `holds`.
    fn last(&self, holds: impl Fn(&Statement) -> bool) -> Required {
        let count = |client: &ClientHistory| {
            let present = &client.statements[client.settled..];
            client.settled + present.iter().rposition(&holds).map_or(0, |last| last + 1)
        };
        self.clients.iter().map(count).collect()
    }

    /// What no client may miss: nothing.
    pub fn nothing(&self) -> Required {
        vec![0; self.clients.len()]
    }

    /// Checks that the rows are those after a prefix of history that holds what is required.
    pub fn check(&self, rows: &Rows, required: &Required) -> Result<(), String> {
        let parts = self.by_client(rows)?;
        let mut rounds = Vec::new();
        for (number, client) in self.clients.iter().enumerate() {
            let counts = client.counts(&parts[number], required[number]);
            let (Some(least), Some(most)) = (counts.first(), counts.last()) else {
                return Err(client.explain(number, &parts[number], required[number]));
            };
            let round_of = |at: usize| client.statements.get(at).map(|statement| statement.round);
            let there = least.checked_sub(1).and_then(round_of);
            rounds.push((there, round_of(*most)));
        }
        let last_there = rounds.iter().filter_map(|(there, _)| *there).max();
        let first_missing = rounds.iter().filter_map(|(_, missing)| *missing).min();
        match (last_there, first_missing) {
            (Some(there), Some(missing)) if missing < there => {
                Err(format!("a statement of round {there} is there, one of round {missing} is not"))
            }
            _ => Ok(()),
        }
    }

    fn by_client(&self, rows: &Rows) -> Result<Vec<Rows>, String> {
        let mut parts = vec![Rows::new(); self.clients.len()];
        for (key, body) in rows {
            let part =
                parts.get_mut(owner(key)).ok_or_else(|| format!("a row that nobody wrote: {key:?}"))?;
            part.insert(key.clone(), body.clone());
        }
        Ok(parts)
    }

    /// A new life begins, with these rows, which backend `read.0` has read as its answer `read.1`: what they lack is
    /// gone for good, what they show is as good as acknowledged from that read on.
    pub fn begin_life(&mut self, rows: &Rows, required: &Required, read: (u32, usize)) -> Result<(), String> {
        self.check(rows, required)?;
        let parts = self.by_client(rows)?;
        for (number, client) in self.clients.iter_mut().enumerate() {
            let most = *client.counts(&parts[number], required[number]).last().expect("checked");
            client.statements.truncate(most);
            client.settled = required[number];
            for statement in &mut client.statements[required[number]..] {
                statement.answer = read;
                statement.acknowledged = true;
            }
        }
        Ok(())
    }
}

impl ClientHistory {
    fn explain(&self, number: usize, rows: &Rows, required: usize) -> String {
        // The state that differs in the fewest rows is what was probably meant.
        let differing = |count: &usize| -> usize {
            let wanted = self.rows_after(*count);
            wanted.iter().filter(|(key, body)| rows.get(*key) != Some(*body)).count()
                + rows.keys().filter(|key| !wanted.contains_key(*key)).count()
        };
        let nearest = (0..=self.statements.len()).min_by_key(differing).unwrap_or(0);
        let wanted = self.rows_after(nearest);
        let shown = |key: &Key, body: Option<&String>| match body {
            Some(body) => format!("{key:?} is {:.40}", body),
            None => format!("{key:?} is not there"),
        };
        let mut lines: Vec<String> = wanted
            .keys()
            .chain(rows.keys().filter(|key| !wanted.contains_key(*key)))
            .filter(|key| wanted.get(*key) != rows.get(*key))
            .map(|key| format!("{}, wanted: {}", shown(key, rows.get(key)), shown(key, wanted.get(key))))
            .collect();
        lines.truncate(5);
        let next = self.statements.get(nearest).map_or("", |statement| &statement.sql);
        format!(
            "client {number}: at least {required} of its {} statements must be there; nearest are the rows after {nearest} \
             (then comes: {next:.120})\n{}",
            self.statements.len(),
            lines.join("\n")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages::Answer;
    use super::*;

    fn key(client: usize, number: usize) -> Key {
        ("a".to_owned(), format!("{client}.{number}"))
    }

    fn put(client: usize, number: usize, round: u32) -> Statement {
        Statement {
            sql: format!("put {client}.{number}"),
            effects: vec![Effect::Put(key(client, number), "x".to_owned())],
            round,
            answer: (10 + u32::try_from(client).unwrap(), number + 1),
            acknowledged: true,
        }
    }

    /// Two clients, three rounds, one put each.
    fn history() -> History {
        let client = |client| ClientHistory {
            settled: 0,
            statements: (0..3).map(|number| put(client, number, u32::try_from(number).unwrap())).collect(),
        };
        History { clients: vec![client(0), client(1)] }
    }

    fn rows(first: usize, second: usize) -> Rows {
        let keys = (0..first).map(|n| key(0, n)).chain((0..second).map(|n| key(1, n)));
        keys.map(|key| (key, "x".to_owned())).collect()
    }

    #[test]
    fn prefixes_with_all_that_is_required_pass_and_nothing_else() {
        let history = history();
        for (first, second, required, good) in [
            (0, 0, [0, 0], true),
            (2, 1, [1, 1], true),
            (3, 3, [1, 1], true),
            (1, 1, [2, 1], false),
            // Round 2 of one client without round 1 of the other.
            (3, 1, [0, 0], false),
        ] {
            let result = history.check(&rows(first, second), &required.to_vec());
            assert_eq!(result.is_ok(), good, "{first} {second} {required:?}: {result:?}");
        }
        let mut hole = rows(3, 3);
        hole.remove(&key(0, 1));
        assert!(history.check(&hole, &vec![0, 0]).unwrap_err().contains("is not there"));
        let mut invented = rows(1, 1);
        invented.insert(key(0, 9), "x".to_owned());
        assert!(history.check(&invented, &vec![0, 0]).is_err());
        invented = rows(1, 1);
        invented.insert(key(0, 0), "older".to_owned());
        assert!(history.check(&invented, &vec![0, 0]).is_err());
    }

    #[test]
    fn required_is_what_was_answered_by_the_moment() {
        let history = history();
        let mut messages = Messages::default();
        let answer = |moment, success| Answer { moment: Moment(moment), success };
        messages.answers.insert(10, vec![answer(1, true), answer(10, true), answer(20, true)]);
        messages.answers.insert(11, vec![answer(1, true), answer(12, true), answer(22, false)]);
        for (moment, required) in [(9, [0, 0]), (10, [1, 0]), (12, [1, 1]), (30, [2, 1])] {
            assert_eq!(history.required(&messages, Moment(moment)), required, "{moment}");
        }
    }

    #[test]
    fn a_read_acknowledges_what_it_shows() {
        let mut history = history();
        history.clients[0].statements[2].acknowledged = false;
        let required = history.acknowledged();
        assert_eq!(required, [2, 3]);
        assert!(history.clone().begin_life(&rows(1, 3), &required, (99, 1)).is_err());
        let mut without = history.clone();
        without.begin_life(&rows(2, 3), &required, (99, 1)).unwrap();
        assert_eq!(without.clients[0].statements.len(), 2);

        history.begin_life(&rows(3, 3), &required, (99, 1)).unwrap();
        assert_eq!(history.clients[0].statements[2].answer, (99, 1));
        assert_eq!(history.acknowledged(), [3, 3]);
        let mut messages = Messages::default();
        messages.answers.insert(99, vec![Answer { moment: Moment(5), success: true }; 2]);
        assert_eq!(history.required(&messages, Moment(4)), [2, 3]);
        assert_eq!(history.required(&messages, Moment(5)), [3, 3]);
    }

    #[test]
    fn a_dropped_table_takes_its_rows_along() {
        let table = |key: &str| ("own_1_7".to_owned(), key.to_owned());
        assert_eq!(owner(&table("3.4")), 1);
        let mut rows = Rows::from([(table(""), String::new()), (table("3.4"), "x".to_owned())]);
        Effect::Remove(table("")).apply(&mut rows);
        assert!(rows.is_empty());
    }
}
