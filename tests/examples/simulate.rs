//! Prints the simulation table: `cargo run --release --example simulate [ROW-NAME-PART]`.

use std::io::Write as _;

use jitney_tests::simulate::{line, render, rows};

fn main() -> std::io::Result<()> {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let mut lines = Vec::new();
    for row in rows(1.0).iter().filter(|row| row.name.contains(&wanted)) {
        lines.push(line(row, &[1, 2, 3]));
    }
    std::io::stdout().write_all(render(&lines).as_bytes())
}
