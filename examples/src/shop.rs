//! A shop's data in SQLite, with what a call costs in real life: a connection is opened for each,
//! and only a few may be open at once.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OpenFlags, params};
use tokio::sync::Semaphore;

/// Users of the shop, numbered from 1.
pub const USERS: u32 = 20_000;
/// Products of the shop, numbered from 0.
pub const PRODUCTS: u32 = 2_000;
/// Orders on a page.
pub const PAGE: u32 = 20;
/// Pages before they begin again.
pub const PAGES: u32 = 1_000;
/// Connections that the database takes at once.
const SLOTS: usize = 4;

/// Creates the shop's tables with their rows.
///
/// # Errors
/// When the file cannot be written.
pub fn create(path: &Path) -> anyhow::Result<()> {
    let mut database = Connection::open(path)?;
    // Written once and thrown away with the run: a crash loses nothing that anyone would miss.
    database.execute_batch(
        "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
         CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL, city TEXT NOT NULL);
         CREATE TABLE products (sku TEXT PRIMARY KEY, title TEXT NOT NULL, cents INTEGER NOT NULL) WITHOUT ROWID;
         CREATE TABLE orders (id INTEGER PRIMARY KEY, page INTEGER NOT NULL, user INTEGER NOT NULL, sku TEXT NOT NULL);",
    )?;
    let transaction = database.transaction()?;
    {
        let mut users = transaction.prepare("INSERT INTO users VALUES (?1, ?2, ?3, ?4)")?;
        for id in 1..=USERS {
            let (first, last) = (one_of(FIRST, id), one_of(LAST, id / 7));
            let email = format!("{}.{}{id}@example.com", first.to_lowercase(), last.to_lowercase());
            users.execute(params![
                id,
                format!("{first} {last}"),
                email,
                one_of(CITIES, id / 3)
            ])?;
        }
        let mut products = transaction.prepare("INSERT INTO products VALUES (?1, ?2, ?3)")?;
        // Every fiftieth product is discontinued: it is still in old orders, and nowhere else.
        for number in (0..PRODUCTS).filter(|number| number % 50 != 0) {
            products.execute(params![
                sku(number),
                format!("Part No. {number}"),
                199 + number * 37 % 9_000
            ])?;
        }
        let mut orders = transaction.prepare("INSERT INTO orders VALUES (?1, ?2, ?3, ?4)")?;
        for id in 0..PAGES * PAGE {
            // Steps without a common factor walk over everybody before anybody comes again.
            let (user, product) = (id * 7_919 % USERS + 1, id * 13 % PRODUCTS);
            orders.execute(params![id, id / PAGE, user, sku(product)])?;
        }
        transaction.execute("CREATE INDEX orders_by_page ON orders (page)", [])?;
        transaction.execute("CREATE INDEX orders_by_user ON orders (user)", [])?;
    }
    transaction.commit()?;
    Ok(())
}

/// The number by which a product is ordered. The space in it is `%20` in a path.
pub fn sku(number: u32) -> String {
    format!("{} {number:04}", one_of(&["AX", "KT", "ZB"], number))
}

fn one_of<'n>(names: &[&'n str], number: u32) -> &'n str {
    names[number as usize % names.len()]
}

/// The shop's database as a service sees it.
#[derive(Clone, Debug)]
pub struct Shop {
    path: Arc<PathBuf>,
    slots: Arc<Semaphore>,
}

impl Shop {
    /// A shop whose data is in the file `path`.
    pub fn open(path: PathBuf) -> Self {
        Self {
            path: Arc::new(path),
            slots: Arc::new(Semaphore::new(SLOTS)),
        }
    }

    /// Waits for a free slot, opens a connection, and asks the database on it.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn ask<T, Q>(&self, question: Q) -> anyhow::Result<T>
    where
        T: Send + 'static,
        Q: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let _slot = self.slots.acquire().await?;
        let path = Arc::clone(&self.path);
        let answer = tokio::task::spawn_blocking(move || {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            question(&Connection::open_with_flags(&*path, flags)?)
        });
        Ok(answer.await??)
    }
}

const FIRST: &[&str] = &[
    "Ada", "Grace", "Alan", "Edsger", "Barbara", "Tony", "Frances", "Leslie", "Radia", "Ken", "Margaret",
];
const LAST: &[&str] = &[
    "Lovelace", "Hopper", "Turing", "Dijkstra", "Liskov", "Hoare", "Allen", "Lamport", "Perlman", "Hamilton",
];
const CITIES: &[&str] = &[
    "Lagos", "Lima", "Lisbon", "London", "Lucknow", "Lund", "Lusaka", "Lyon",
];
