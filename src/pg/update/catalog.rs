//! The table and its columns, as the catalog knows them.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::{join_all, try_join3};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use crate::error::{Error, Refusal};
use crate::fix::Fix;
use crate::pg::Failure;
use crate::pg::privileges::quote;

/// A table that may be updated.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    /// Schema and name, quoted.
    pub(crate) name: String,
    columns: BTreeMap<String, Column>,
    /// The columns of each index that proves rows to be unique.
    unique: Vec<Vec<String>>,
    /// The columns that a foreign key may refer to, or that say in which partition a row is: whoever changes one of them
    /// locks the row against those who refer to it, too.
    referable: Vec<String>,
    /// Whether functions of the user's run on each update.
    pub(crate) has_triggers: bool,
    /// Whether the log tells of each change, and the role may ask where it is.
    pub(crate) is_logged: bool,
}

/// A column and how a text becomes its value.
#[derive(Debug, Clone)]
#[allow(clippy::struct_excessive_bools, reason = "facts of the catalog, each for itself")]
pub(crate) struct Column {
    /// Its name, quoted.
    pub(crate) name: String,
    /// The type to cast a text to that is compared: the base type of a domain, without a length, precision or scale. A
    /// cast to `numeric(10,2)` would make 1.239 equal to 1.24.
    pub(crate) cast: String,
    /// The same for a text that is assigned, with the precision, as the row will hold it; still without a length where
    /// an explicit cast would silently cut the text (the assignment then checks the length).
    pub(crate) assigned: String,
    /// The same with that length, where the column has one.
    limited: Option<String>,
    /// The base type.
    pub(crate) type_oid: u32,
    /// The type as the table has it: what an assigned value becomes.
    pub(crate) stored: String,
    pub(crate) equality: Equality,
    /// Whether a date or time is in it, as an element, bound or field, too: a text such as `now` is another one later.
    pub(crate) holds_time: bool,
    pub(crate) is_not_null: bool,
    is_domain_of_enum: bool,
    /// Whether the server alone says what it holds.
    generated: bool,
}

/// `int8`, `int2` and `int4` (`pg_type.dat`).
const INTEGERS: [u32; 3] = [20, 21, 23];
/// `numeric`.
const NUMERIC: u32 = 1700;

impl Column {
    /// The value in the row `t`. Enums find their operators only by themselves, not through a domain.
    pub(crate) fn operand(&self) -> String {
        let Self { name, cast, is_domain_of_enum, .. } = self;
        if *is_domain_of_enum { format!("CAST(t.{name} AS {cast})") } else { format!("t.{name}") }
    }

    /// A text (in SQL) as the row will hold it. An assignment cuts blanks behind a column's length, and fails where it
    /// would cut anything else. So does this: what does not fit stays as it is, and fails when it is assigned.
    pub(crate) fn assigned(&self, text: &str) -> String {
        let whole = format!("CAST({text} AS {})", self.assigned);
        match &self.limited {
            None => whole,
            Some(limited) => {
                let fits = self.fits(text);
                format!("CASE WHEN {fits} THEN CAST({text} AS {limited}) ELSE {whole} END")
            }
        }
    }

    /// True of a text (in SQL) of which the column's length cuts blanks at most.
    pub(crate) fn fits(&self, text: &str) -> String {
        let Some(limited) = &self.limited else { return "true".to_owned() };
        // An array writes an element with blanks in quotes, and a quote in it as \".
        let blanks = if limited.ends_with("[]") { " \"" } else { " " };
        let bare = |cast: &String| {
            format!("pg_catalog.translate(CAST({text} AS {cast})::pg_catalog.text, '{blanks}', '')")
        };
        format!("{} = {}", bare(limited), bare(&self.assigned))
    }

    /// The same as the column has it, for people.
    pub(crate) fn type_name(&self) -> &str {
        self.limited.as_ref().unwrap_or(&self.assigned)
    }

    /// Whether one more is always another value. A `numeric` has infinities and NaN, and may be rounded to thousands.
    pub(crate) fn is_integer(&self) -> bool {
        INTEGERS.contains(&self.type_oid)
    }

    /// Refuses to count in a column that holds no numbers.
    pub(crate) fn check_number(&self, field: &str) -> Result<(), Error> {
        if self.is_integer() || self.type_oid == NUMERIC {
            return Ok(());
        }
        let Self { name, assigned, .. } = self;
        let problem = format!("column {name} is of type {assigned}; a version is an integer or numeric");
        Err(Error::configuration(field, problem))
    }
}

/// What a type's equality operator is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Equality {
    /// There is none: values are compared as texts.
    None,
    /// Different values may be equal: `1.0` and `1.00`, two paths with as many points.
    Loose,
    /// Equal values are the same.
    Exact,
}

/// The name as it is written in the catalog comes first, then as SQL reads it (folded, quoted,
/// qualified). `to_regclass` fails or answers NULL, by version, for what is no name at all.
const EXACT: &str = concat!(
    "\
WITH ",
    serial!(),
    " SELECT c.oid FROM pg_catalog.pg_class c
WHERE c.relname = $1 AND pg_catalog.pg_table_is_visible(c.oid)",
);
const PARSED: &str = "SELECT pg_catalog.to_regclass($1::text)::oid";

/// How the server refuses to parse what is no name: empty, unclosed quotes, too many parts, another database's.
const NO_NAME: [SqlState; 3] =
    [SqlState::INVALID_NAME, SqlState::SYNTAX_ERROR, SqlState::FEATURE_NOT_SUPPORTED];

/// The family are all tables whose rows an update of the first one may change: partitions, and children of the older
/// kind (manual, "Inheritance"), down to the last. Each has triggers, indexes and a log, or none, of its own.
macro_rules! family {
    ($table:literal) => {
        concat!(
            ", family AS (
    SELECT ",
            $table,
            "::oid AS oid
    UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN family f ON f.oid = i.inhparent)"
        )
    };
}

/// Whether the family has triggers of somebody's.
macro_rules! triggers {
    () => {
        "EXISTS (SELECT FROM pg_catalog.pg_trigger t
               WHERE t.tgrelid IN (SELECT oid FROM family) AND NOT t.tgisinternal AND t.tgenabled <> 'D')"
    };
}

/// A rule is in force as the session's `session_replication_role` has it (manual, "ALTER TABLE").
const TABLE: &str = concat!(
    "WITH RECURSIVE ",
    serial!(),
    family!("$1"),
    ",
members AS (SELECT c.* FROM family f JOIN pg_catalog.pg_class c ON c.oid = f.oid)
SELECT n.nspname::text, c.relname::text, c.relkind = 'r' OR c.relkind = 'p',
       c.relkind = 'r' AND EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhparent = c.oid),
       (SELECT pg_catalog.min(r.rulename::text) FROM pg_catalog.pg_rewrite r
        WHERE r.ev_class = c.oid AND r.ev_type = '2' AND (r.ev_enabled = 'A' OR r.ev_enabled =
              CASE pg_catalog.current_setting('session_replication_role') WHEN 'replica' THEN 'R' ELSE 'O' END)),
       NOT EXISTS (SELECT FROM members m WHERE m.relkind = 'f' OR m.relpersistence <> 'p')
         AND NOT pg_catalog.pg_is_in_recovery()
         AND pg_catalog.has_function_privilege('pg_catalog.pg_current_wal_insert_lsn()', 'EXECUTE'),
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_index i JOIN family f ON f.oid = i.indrelid
               JOIN pg_catalog.pg_attribute a
                 ON a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
             WHERE i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL
             UNION
             SELECT a.attname::text FROM pg_catalog.pg_partitioned_table p JOIN family f ON f.oid = p.partrelid
               JOIN pg_catalog.pg_attribute a ON a.attrelid = p.partrelid
                AND (a.attnum = ANY (p.partattrs::int2[]) OR p.partexprs IS NOT NULL)),
       ",
    triggers!(),
    "
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1",
);

const TRIGGERS: &str = concat!(
    "WITH RECURSIVE ",
    serial!(),
    family!("$1::pg_catalog.text::pg_catalog.regclass"),
    "
SELECT ",
    triggers!(),
);

/// Whether somebody's trigger may run in a COMMIT: on any table, since what one trigger writes may have others run.
pub(crate) async fn has_deferred_triggers(client: &Client) -> Result<bool, Failure> {
    const DEFERRED: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_trigger \
         WHERE NOT tgisinternal AND tgdeferrable AND tgenabled <> 'D')";
    let rows = client.query_typed(DEFERRED, &[]).await?;
    Ok(rows.first().is_none_or(|row| row.get(0)))
}

/// Whether functions of the user's run on each update of the table (quoted) by now.
pub(crate) async fn has_triggers(client: &Client, table: &str) -> Result<bool, Failure> {
    let rows = client.query_typed(TRIGGERS, &[(&table, Type::TEXT)]).await?;
    Ok(rows.first().is_none_or(|row| row.get(0)))
}

/// `parts` are the types that each type is made of: elements, bounds, fields, and what a domain is of. Only 14 and later
/// have multiranges.
///
/// Whether equal values are the same is what B-tree deduplication asks, too: the operator class has an
/// `equalimage` function, and the collation is deterministic (manual, "B-Tree Support Functions").
const COLUMNS: &str = concat!(
    "\
WITH RECURSIVE ",
    serial!(),
    ", base AS (
    SELECT a.attname, a.attgenerated <> '' OR a.attidentity = 'a' AS generated, a.attnotnull, false AS domain,
           a.atttypid AS type, a.atttypmod AS modifier,
           pg_catalog.format_type(a.atttypid, a.atttypmod) AS stored,
           coalesce((SELECT c.collisdeterministic FROM pg_catalog.pg_collation c WHERE c.oid = a.attcollation), true)
             AS deterministic
    FROM pg_catalog.pg_attribute a WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT b.attname, b.generated, b.attnotnull, true, t.typbasetype, t.typtypmod, b.stored, b.deterministic
    FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.type WHERE t.typtype = 'd'),
parts AS (
    SELECT DISTINCT b.type AS whole, b.type AS part FROM base b
    UNION
    SELECT p.whole, q.part
    FROM parts p JOIN pg_catalog.pg_type t ON t.oid = p.part CROSS JOIN LATERAL (
        SELECT t.typelem AS part
        UNION ALL SELECT t.typbasetype
        UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r
                  WHERE t.oid IN (r.rngtypid, (pg_catalog.to_jsonb(r) ->> 'rngmultitypid')::oid)
        UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a
                  WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) q
    WHERE q.part <> 0)
SELECT b.attname::text, b.generated,
       pg_catalog.format_type(b.type, -1), pg_catalog.format_type(b.type, CASE WHEN l.has_length THEN -1 ELSE b.modifier END),
       b.stored, b.attnotnull,
       EXISTS (SELECT FROM parts p JOIN pg_catalog.pg_type d ON d.oid = p.part WHERE p.whole = b.type AND d.typcategory = 'D'),
       t.typtype = 'e' AND b.domain,
       b.deterministic AND EXISTS (
           SELECT FROM pg_catalog.pg_opclass o JOIN pg_catalog.pg_amproc p
             ON p.amprocfamily = o.opcfamily AND p.amproclefttype = o.opcintype AND p.amprocrighttype = o.opcintype
           WHERE p.amprocnum = 4 AND o.opcdefault AND o.opcintype = CASE
             WHEN t.typtype = 'e' THEN 'pg_catalog.anyenum'::regtype
             WHEN t.oid = 'pg_catalog.varchar'::regtype THEN 'pg_catalog.text'::regtype
             ELSE t.oid END
             AND o.opcmethod = (SELECT m.oid FROM pg_catalog.pg_am m WHERE m.amname = 'btree')),
       t.oid, CASE WHEN l.has_length AND b.modifier >= 0 THEN pg_catalog.format_type(b.type, b.modifier) END
FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.type CROSS JOIN LATERAL (
    SELECT coalesce(nullif(t.typelem, 0), t.oid) IN ('pg_catalog.bpchar'::regtype, 'pg_catalog.varchar'::regtype,
               'pg_catalog.bit'::regtype, 'pg_catalog.varbit'::regtype) AS has_length) l
WHERE t.typtype <> 'd'",
);

const UNIQUE: &str = concat!(
    "\
WITH ",
    serial!(),
    " SELECT ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))
FROM pg_catalog.pg_index i
WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indimmediate
  AND i.indpred IS NULL AND i.indexprs IS NULL
  -- What the index holds for different, the column's own comparison does, too.
  AND NOT EXISTS (
      SELECT FROM pg_catalog.generate_series(0, i.indnkeyatts - 1) AS k
        JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k]
        JOIN pg_catalog.pg_opclass o ON o.oid = i.indclass[k]
      WHERE NOT o.opcdefault OR (i.indcollation[k] <> a.attcollation AND EXISTS (
          SELECT FROM pg_catalog.pg_collation c WHERE c.oid = a.attcollation AND NOT c.collisdeterministic)))",
);

/// The role, and the schema of a name that has one.
const ROLE_AND_SCHEMA: &str = "SELECT current_user::pg_catalog.text, parts[pg_catalog.cardinality(parts) - 1] \
     FROM pg_catalog.parse_ident($1) AS parts";

async fn find_oid(client: &Client, name: &str) -> Result<Option<u32>, Error> {
    let sql = |failure| Error::sql("looking up the table", failure);
    let ask = async |statement| client.query_typed(statement, &[(&name, Type::TEXT)]).await;
    let first = |rows: Vec<Row>| rows.first().and_then(|row| row.get(0));
    if let Some(oid) = first(ask(EXACT).await.map_err(|error| sql(error.into()))?) {
        return Ok(Some(oid));
    }
    match ask(PARSED).await {
        Ok(rows) => Ok(first(rows)),
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            let rows = ask(ROLE_AND_SCHEMA).await.map_err(|error| sql(error.into()))?;
            let Some(row) = rows.first() else { return Err(sql(error.into())) };
            let (role, schema) = (quote(row.get(0)), quote(row.get(1)));
            Err(Error::refused(
                Refusal::MayNotUpdate,
                format!("role {role} lacks a right on schema {schema}: USAGE"),
                vec![Fix::sql(format!("GRANT USAGE ON SCHEMA {schema} TO {role}"))],
            ))
        }
        Err(error) if error.code().is_some_and(|code| NO_NAME.contains(code)) => Ok(None),
        Err(error) => Err(sql(error.into())),
    }
}

impl Table {
    /// Looks a table up; fails with a configuration error when there is none. Two round trips.
    pub(crate) async fn find(client: &Client, name: &str) -> Result<Self, Error> {
        let sql = |failure| Error::sql("looking up the table", failure);
        let none = || Error::configuration("table", format!("there is no table {name:?}"));
        let oid = find_oid(client, name).await?.ok_or_else(none)?;
        let ask = async |statement| {
            let oid: (&(dyn ToSql + Sync), Type) = (&oid, Type::OID);
            client.query_typed(statement, &[oid]).await.map_err(Failure::from)
        };
        let (table, columns, unique) = try_join3(ask(TABLE), ask(COLUMNS), ask(UNIQUE)).await.map_err(sql)?;
        let row = table.first().ok_or_else(none)?;
        let (schema, relation): (&str, &str) = (row.get(0), row.get(1));
        if !row.get::<_, bool>(2) {
            return Err(Error::configuration("table", format!("{schema}.{relation} is not a table")));
        }
        if let Some(rule) = row.get::<_, Option<&str>>(4) {
            let problem = format!(
                "{schema}.{relation} has a rule ON UPDATE ({rule}), with which the server refuses the statements of an \
                 update; a trigger can do the same"
            );
            return Err(Error::configuration("table", problem));
        }
        let name = format!("{}.{}", quote(schema), quote(relation));
        let columns = columns.iter().map(|row| {
            let column = Column {
                name: quote(row.get(0)),
                cast: row.get(2),
                type_oid: row.get(9),
                assigned: row.get(3),
                limited: row.get(10),
                stored: row.get(4),
                equality: if row.get(8) { Equality::Exact } else { Equality::Loose },
                holds_time: row.get(6),
                is_not_null: row.get(5),
                is_domain_of_enum: row.get(7),
                generated: row.get(1),
            };
            (row.get::<_, String>(0), column)
        });
        // A unique index of a parent says nothing about the rows of its children.
        let inherited: bool = row.get(3);
        Ok(Self {
            name,
            columns: columns.collect(),
            unique: unique.iter().filter(|_| !inherited).map(|row| row.get(0)).collect(),
            referable: row.get(6),
            has_triggers: row.get(7),
            is_logged: row.get(5),
        })
    }

    /// The column of that name, written as in the catalog, or folded to lower case as SQL does.
    pub(crate) fn column(&self, field: &str, name: &str) -> Result<&Column, Error> {
        let found = self.columns.get(name).or_else(|| self.columns.get(&name.to_lowercase()));
        found.ok_or_else(|| Error::configuration(field, format!("{} has no column {name:?}", self.name)))
    }

    /// The same, for a column to be changed.
    pub(crate) fn writable(&self, field: &str, name: &str) -> Result<&Column, Error> {
        let column = self.column(field, name)?;
        if column.generated {
            return Err(Error::configuration(field, format!("column {} is generated", column.name)));
        }
        Ok(column)
    }

    /// Whether no two rows can have the same values in these columns (names quoted).
    pub(crate) fn is_unique(&self, columns: &[String]) -> bool {
        self.unique.iter().any(|index| index.iter().all(|name| columns.contains(&quote(name))))
    }

    /// How rows are locked of which these columns (names quoted) are to be changed.
    pub(crate) fn lock<'a>(&self, mut changed: impl Iterator<Item = &'a String>) -> &'static str {
        let is_referable = |name: &String| self.referable.iter().any(|referable| quote(referable) == *name);
        if changed.any(is_referable) { "UPDATE" } else { "NO KEY UPDATE" }
    }

    /// Asks the server which types of the columns cannot be compared. No catalog says it in one place: enums, arrays,
    /// ranges and domains share the operators of their kind.
    pub(crate) async fn incomparable(&self, client: &Client) -> Result<Vec<String>, Error> {
        let casts: BTreeSet<String> = self.columns.values().map(|column| column.cast.clone()).collect();
        let probes = casts.into_iter().map(async |cast| {
            // Arrays have one whatever they are made of, and fail when it is used.
            let part = cast.trim_end_matches("[]");
            let probe = format!("SELECT CAST(NULL AS {part}) IS NOT DISTINCT FROM CAST(NULL AS {part})");
            match client.prepare(&probe).await {
                Ok(_) => Ok(None),
                Err(error) if error.code() == Some(&SqlState::UNDEFINED_FUNCTION) => Ok(Some(cast)),
                Err(error) => Err(Error::sql("looking up the columns' types", Failure::from(error))),
            }
        });
        join_all(probes).await.into_iter().filter_map(Result::transpose).collect()
    }

    /// Has the values of these types compared as texts.
    pub(crate) fn compare_as_texts(&mut self, casts: &[String]) {
        let same = self.columns.values_mut().filter(|column| casts.contains(&column.cast));
        same.for_each(|column| column.equality = Equality::None);
    }
}
