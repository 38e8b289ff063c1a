//! Every disk that a power loss could have left behind, made from what real nodes did to theirs.
//!
//! The law under test: over any power loss at any moment, recovery ends with all acknowledged rows and none that was
//! never written, log and tables cut alike.
//!
//! **Why a recording.** A simulated disk inside of the product would test the product's idea of its own writes; SQLite
//! would have to be taught it by a second way, and neither would be what runs. Here the programs are those that a user
//! runs, on a real file system, under strace, which stops each process at the begin and at the end of each call. From
//! the order of these stops follows which calls were over before which others began, in all processes of the node and in
//! its log, its tables and its small files alike; the answers that it sent stand in the same order.
//!
//! ```text
//! recorder   runs a node under strace, to the end of its life       -> a trace (text)
//! trace      reads the text                                         -> operations, each with its begin and its end
//! model      applies them up to a cut; knows what must be on disk and what may be
//! image      chooses what of it is there                            -> files, and a list of what was lost
//! orders     looks at what had to be on disk before something else
//! verify     starts the real program on the files and looks at what it says
//! ```
//!
//! **The disk assumed** (POSIX at its worst, as far as file systems with a journal go):
//! - What a successful fsync or fdatasync of a file found ended when it began, is there from the end of that call on: bytes
//!   and size. Whatever else was written may be there or not, each sector of 512 bytes for itself, in any order, from the
//!   begin of the call that wrote it. A sector is never older than a sync of it, nor a mixture of writes that the page
//!   cache never held. (SQLite calls this powersafe overwrite.)
//! - A size may be there before the bytes: then zeros or garbage are read there. A sector that was being written may
//!   hold a flipped bit, among those that the write changed.
//! - Names appear, vanish and move by fsync of their directory alone: the fsync of a file doesn't make its name durable.
//!   A rename is atomic: one name or the other. Changes of different names may come in any order, changes of one name come
//!   in theirs.
//! - A sync that fails loses what it should have written: the kernel keeps it in memory, takes it for written, and no
//!   later sync writes it, unless its page is written to again.
//! - `-shm` files are in no image: SQLite builds them anew.
//!
//! **A process that is killed** loses nothing that it has written: the model goes on over the lives of a node, and what
//! was not synced in one life may be lost in the next one.

pub mod campaign;
pub mod history;
pub mod image;
mod lives;
mod look;
pub mod messages;
pub mod model;
pub mod orders;
pub mod recorder;
pub mod trace;
pub mod verify;
pub mod workload;
