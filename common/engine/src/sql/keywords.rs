//! Words with a meaning of their own, by the question that is asked about them.

/// Words that may stand before `(` without calling anything, so that `IN (…)::text` casts the parentheses alone.
const BEFORE_PARENTHESIS: &[&str] = &[
    "all",
    "and",
    "any",
    "as",
    "between",
    "by",
    "case",
    "distinct",
    "else",
    "except",
    "from",
    "glob",
    "having",
    "in",
    "intersect",
    "is",
    "like",
    "limit",
    "not",
    "offset",
    "on",
    "or",
    "returning",
    "select",
    "set",
    "some",
    "then",
    "union",
    "using",
    "values",
    "when",
    "where",
];

/// Whether a word before `(` belongs to the surrounding statement and not to the parentheses.
pub(crate) fn stands_before_parenthesis(word: &str) -> bool {
    BEFORE_PARENTHESIS.iter().any(|known| known.eq_ignore_ascii_case(word))
}

/// Functions that PostgreSQL calls without parentheses and SQLite doesn't know.
const CALLED_WITHOUT_PARENTHESES: &[&str] =
    &["current_user", "session_user", "current_role", "current_catalog"];

/// Whether a bare word is a call.
pub(crate) fn is_called_bare(word: &str) -> bool {
    CALLED_WITHOUT_PARENTHESES.iter().any(|known| known.eq_ignore_ascii_case(word))
}

/// Commands of PostgreSQL (and SQLite) that are not there, with what to do instead.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("ATTACH", "A node has one database."),
    ("CALL", "There are no procedures."),
    ("CLOSE", "There are no cursors; read the whole result."),
    ("CLUSTER", "Tables are kept in the order of their key."),
    ("COMMENT", "Comments on objects are not kept."),
    ("COPY", "Use INSERT with several rows."),
    ("DEALLOCATE", "Statements are prepared through the protocol only."),
    ("DECLARE", "There are no cursors; read the whole result."),
    ("DETACH", "A node has one database."),
    ("DO", "There are no procedural languages."),
    ("EXECUTE", "Statements are prepared through the protocol only."),
    ("FETCH", "There are no cursors; read the whole result."),
    ("IMPORT", "There are no foreign tables."),
    ("LOAD", "There are no loadable modules."),
    ("LOCK", "Writes are executed one after the other; no lock is needed."),
    ("MERGE", "Use INSERT … ON CONFLICT."),
    ("MOVE", "There are no cursors; read the whole result."),
    ("PRAGMA", "Use SHOW and SET; table_info and its kin can be read."),
    ("PREPARE", "Statements are prepared through the protocol only."),
    ("REASSIGN", "There are no owners."),
    ("REFRESH", "There are no materialized views."),
    ("SECURITY", "There are no security labels."),
    ("VACUUM", "Space of deleted rows is used again by itself."),
];

/// The hint for a command that is refused.
pub(crate) fn unsupported_command(word: &str) -> Option<(&'static str, &'static str)> {
    UNSUPPORTED.iter().find(|(known, _)| known.eq_ignore_ascii_case(word)).copied()
}

/// Words that PostgreSQL takes for a name only in quotes (reserved, or reserved but for functions and types).
const RESERVED: &[&str] = &[
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "authorization",
    "binary",
    "both",
    "case",
    "cast",
    "check",
    "collate",
    "collation",
    "column",
    "concurrently",
    "constraint",
    "create",
    "cross",
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "false",
    "fetch",
    "for",
    "foreign",
    "freeze",
    "from",
    "full",
    "grant",
    "group",
    "having",
    "ilike",
    "in",
    "initially",
    "inner",
    "intersect",
    "into",
    "is",
    "isnull",
    "join",
    "lateral",
    "leading",
    "left",
    "like",
    "limit",
    "localtime",
    "localtimestamp",
    "natural",
    "not",
    "notnull",
    "null",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "outer",
    "overlaps",
    "placing",
    "primary",
    "references",
    "returning",
    "right",
    "select",
    "session_user",
    "similar",
    "some",
    "symmetric",
    "table",
    "tablesample",
    "then",
    "to",
    "trailing",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "variadic",
    "verbose",
    "when",
    "where",
    "window",
    "with",
];

/// Whether a bare word can't be a name.
pub(crate) fn is_reserved(word: &str) -> bool {
    RESERVED.iter().any(|known| known.eq_ignore_ascii_case(word))
}

/// PRAGMAs that only read, and can't be given a value that changes anything.
const READABLE_PRAGMAS: &[&str] = &[
    "collation_list",
    "compile_options",
    "foreign_key_check",
    "foreign_key_list",
    "function_list",
    "index_info",
    "index_list",
    "index_xinfo",
    "integrity_check",
    "module_list",
    "page_count",
    "page_size",
    "pragma_list",
    "quick_check",
    "table_info",
    "table_list",
    "table_xinfo",
];

/// Whether a session may run a PRAGMA.
pub(crate) fn is_readable_pragma(name: &str) -> bool {
    READABLE_PRAGMAS.iter().any(|known| known.eq_ignore_ascii_case(name))
}
