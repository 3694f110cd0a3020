//! MySQL and MariaDB: each value is a row of the table of its property; a batch is one transaction.
//!
//! Values are parameters of prepared statements. Names of tables cannot be: they are checked by [`crate::route`],
//! whose pattern has no quote. Tables are KubeEdge's, made when they are not there, with times to the millisecond.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use jiff::tz::TimeZone;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Error, Opts, OptsBuilder, SslOpts, Transaction, TxOpts, Value};
use skerry_mapper_sdk::chain;

use super::{Means, Sent};
use crate::address::Address;
use crate::record::Record;
use crate::route::Route;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Rows of one statement, the largest first: few statements to prepare, few round trips to make.
const ROWS: [usize; 3] = [64, 8, 1];
/// Prepared statements that are kept: those of some forty properties.
const STATEMENTS: usize = 128;
/// Tables that are known to be there; it begins anew when there are more.
const MAX_KNOWN: usize = 10_000;

/// See the module documentation.
pub(crate) struct Mysql {
    address: Address,
    database: String,
    user: String,
    means: Means,
    connection: Option<Conn>,
    known: HashSet<String>,
}

impl Mysql {
    pub(crate) fn new(address: Address, database: String, user: String, means: &Means) -> Self {
        Self { address, database, user, means: means.clone(), connection: None, known: HashSet::new() }
    }

    pub(crate) async fn send(&mut self, records: &[Record]) -> Sent {
        // A call that is dropped half-way leaves no connection: its transaction is rolled back.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => match self.connect().await {
                Ok(connection) => connection,
                Err(words) => return Sent::away(0, words),
            },
        };
        match self.insert(&mut connection, records).await {
            Ok(()) => {
                self.connection = Some(connection);
                Sent::all(records)
            }
            Err(error) => {
                self.known.clear();
                let words = words(&error);
                if is_refusal(&error) {
                    self.connection = Some(connection);
                    Sent::refused(0, words)
                } else {
                    // Politely if possible; it ends in any case.
                    let _ = tokio::time::timeout(Duration::from_secs(1), connection.disconnect()).await;
                    Sent::away(0, words)
                }
            }
        }
    }

    async fn insert(&mut self, connection: &mut Conn, records: &[Record]) -> Result<(), Error> {
        // The values of a table stay in order; those of others need not wait for them.
        let mut tables: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
        for record in records {
            if let Route::Mysql { table } = &record.target.route {
                tables.entry(table).or_default().push(record);
            }
        }
        for table in tables.keys() {
            if !self.known.contains(*table) {
                let create = format!(
                    "CREATE TABLE IF NOT EXISTS `{table}` \
                     (id INT AUTO_INCREMENT PRIMARY KEY, ts DATETIME(3) NOT NULL, field MEDIUMTEXT)"
                );
                connection.query_drop(create).await?;
                if self.known.len() >= MAX_KNOWN {
                    self.known.clear();
                }
                self.known.insert((*table).to_owned());
            }
        }
        let mut transaction = connection.start_transaction(TxOpts::default()).await?;
        for (table, mut rows) in tables {
            for most in ROWS {
                while rows.len() >= most {
                    let rest = rows.split_off(most);
                    insert_rows(&mut transaction, table, &rows).await?;
                    rows = rest;
                }
            }
        }
        transaction.commit().await
    }

    async fn connect(&self) -> Result<Conn, String> {
        let ssl = if self.address.tls {
            let roots = self.means.tls.roots()?;
            let roots = roots.into_iter().map(|root| root.to_vec().into()).collect();
            Some(SslOpts::default().with_root_certs(roots).with_disable_built_in_roots(true))
        } else {
            None
        };
        let options: Opts = OptsBuilder::default()
            .ip_or_hostname(self.address.host.clone())
            .tcp_port(self.address.port)
            .db_name(Some(self.database.clone()))
            .user(Some(self.user.clone()))
            .pass(self.means.secrets.password.clone())
            .prefer_socket(false)
            .stmt_cache_size(STATEMENTS)
            .ssl_opts(ssl)
            .into();
        match tokio::time::timeout(CONNECT_TIMEOUT, Conn::new(options)).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(words(&error)),
            Err(_) => Err(format!("no connection within {CONNECT_TIMEOUT:?}")),
        }
    }
}

async fn insert_rows(transaction: &mut Transaction<'_>, table: &str, rows: &[&Record]) -> Result<(), Error> {
    let places = vec!["(?, ?)"; rows.len()].join(", ");
    let statement = format!("INSERT INTO `{table}` (ts, field) VALUES {places}");
    let values: Vec<Value> = rows.iter().flat_map(|row| [time(row), Value::from(row.value.to_text())]).collect();
    transaction.exec_drop(statement, values).await
}

/// In the time of this machine, as KubeEdge's mappers write it, to the millisecond.
fn time(record: &Record) -> Value {
    let time = jiff::Timestamp::from_millisecond(record.unix_ms).unwrap_or_default().to_zoned(TimeZone::system());
    Value::from(time.strftime("%Y-%m-%d %H:%M:%S%.3f").to_string())
}

/// Whether these values will never fit: errors of data, and rows that are too long for the server.
fn is_refusal(error: &Error) -> bool {
    match error {
        Error::Server(error) => error.state.starts_with("22") || matches!(error.code, 1153 | 1366 | 1406),
        _ => false,
    }
}

/// The numbers of a server's error, whose text may have values in it; other errors as they are.
fn words(error: &Error) -> String {
    match error {
        Error::Server(error) => format!("the answer was error {} ({})", error.code, error.state),
        other => chain(other),
    }
}
