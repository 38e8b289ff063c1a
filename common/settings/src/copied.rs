//! Which settings travel with a copy of a node: all but those that say which node it is.
//!
//! Where it listens would clash with the original, or be another machine's address; a slot is held by one standby;
//! whom commits wait for is the business of the node that commits, and a copy that is promoted would
//! wait for standbys that it may not have.

use crate::{auto_conf, edit};

/// Of one node alone.
const OF_ONE_NODE: [&str; 5] =
    ["listen_addresses", "port", "primary_slot_name", "synchronous_standby_names", "unix_socket_directories"];

fn is_of_one_node(name: &str) -> bool {
    OF_ONE_NODE.iter().any(|of_one| of_one.eq_ignore_ascii_case(name))
}

/// What a copy of the node has for its walship.conf.
pub fn walship_conf(conf: &str) -> String {
    edit::comment_out(conf, is_of_one_node)
}

/// What it has for its postgresql.auto.conf.
pub fn auto_conf(auto: &str) -> String {
    auto_conf::comment_out(auto, is_of_one_node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_which_node_it_is_stays_behind() {
        let conf =
            "port = 5441\nsynchronous_standby_names = 'a'\nlisten_addresses = '*'\nmax_connections = 7\n";
        assert_eq!(
            walship_conf(conf),
            "#port = 5441\n#synchronous_standby_names = 'a'\n#listen_addresses = '*'\nmax_connections = 7\n"
        );
        let auto = "# x\nprimary_slot_name = 'one'\nprimary_conninfo = 'host=a'\nport = '\n";
        assert_eq!(
            auto_conf(auto),
            "# x\n#primary_slot_name = 'one'\nprimary_conninfo = 'host=a'\nport = '\n"
        );
    }
}
