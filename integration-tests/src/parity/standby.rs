//! A client that speaks for a standby: takes the log and reports as far as it is told to.

use wal::lsn::Lsn;

use super::Server;
use crate::client::Client;
use crate::wait;

/// One stream.
#[derive(Debug)]
pub struct FakeStandby {
    client: Client,
    name: String,
    /// It has the log up to here.
    received: Lsn,
}

impl FakeStandby {
    /// Streams from where the log ends now, and reports that as flushed; waits until the server shows it as streaming.
    pub fn connect(server: &Server, name: &str) -> FakeStandby {
        let mut client = server.client_with(&[("replication", "true"), ("application_name", name)]);
        let system = client.rows("IDENTIFY_SYSTEM");
        let start: Lsn = system[0][2].parse().expect("an LSN");
        client.send_query(&format!("START_REPLICATION {start} TIMELINE {}", system[0][1])).unwrap();
        assert_eq!(client.read_message().unwrap().tag, b'W');
        let mut standby = FakeStandby { client, name: name.to_owned(), received: start };
        standby.report();
        let sql = format!(
            "SELECT state FROM pg_stat_replication WHERE application_name = '{name}' AND flush_lsn IS NOT NULL"
        );
        wait::until(name, || (server.rows(&sql) == [["streaming"]]).then_some(()));
        standby
    }

    /// Takes the log up to `lsn` and reports it as flushed and applied.
    pub fn confirm(&mut self, lsn: Lsn) {
        while self.received < lsn {
            let message = self.client.read_message().expect("the stream goes on");
            assert_eq!(message.tag, b'd');
            if message.body[0] == b'w' {
                let start = u64::from_be_bytes(message.body[1..9].try_into().expect("eight bytes"));
                self.received = Lsn(start + message.body.len() as u64 - 25);
            }
        }
        self.report();
    }

    fn report(&mut self) {
        let mut body = vec![b'r'];
        [self.received; 3].iter().for_each(|lsn| body.extend_from_slice(&lsn.0.to_be_bytes()));
        body.extend_from_slice(&0i64.to_be_bytes());
        body.push(0);
        self.client.send_message(b'd', &body).expect("the stream is there");
    }

    /// Leaves, and waits until the server has noticed.
    pub fn leave(self, server: &Server) {
        let sql =
            format!("SELECT count(*) FROM pg_stat_replication WHERE application_name = '{}'", self.name);
        drop(self.client);
        wait::until("the walsender to be gone", || (server.value(&sql) == "0").then_some(()));
    }
}
