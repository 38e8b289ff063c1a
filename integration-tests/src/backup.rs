//! A base backup that a client takes piece by piece, or leaves lying.

use crate::client::{Client, ClientError, parse_error};
use crate::node::Node;

/// Begins one, as of now. The node goes on with it as far as the buffers between the two reach.
pub fn begin(node: &Node) -> Result<Client, ClientError> {
    let mut client = Client::connect(&node.address(), &[("replication", "true")])?;
    client.send_query("BASE_BACKUP ( LABEL 'test', CHECKPOINT 'fast', WAL, WAIT 0 )")?;
    Ok(client)
}

/// Takes the rest of it, to its end.
pub fn take(mut client: Client) -> Result<(), ClientError> {
    loop {
        let message = client.read_message()?;
        match message.tag {
            b'E' => return Err(ClientError::Server(parse_error(&message.body))),
            b'Z' => return Ok(()),
            _ => {}
        }
    }
}
