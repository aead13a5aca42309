//! What happens in the mesh, act by act: pages without and with it, edits of its policies, the control
//! plane away and back.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use jitney_examples::figures::{milliseconds, quantile, say, thousands};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::documents::Edit;
use crate::load::{Book, Load, Options, Tally};
use crate::processes::{Member, Mesh, is_programmed, json, until};
use crate::verdict::{Reading, Verdict};

/// Plays every act, and says what came of each and of all.
///
/// # Errors
/// When the mesh does not come to run what it is told to run.
pub(crate) async fn play(mesh: &mut Mesh, options: Options) -> anyhow::Result<Verdict> {
    introduce(mesh).await?;
    let (book, mut verdict) = (Book::new(options), Verdict::default());
    compare(mesh, &book, options, &mut verdict).await?;

    let bar = ProgressBar::new_spinner().with_style(ProgressStyle::with_template(
        "{spinner} {msg:36} {human_pos} pages, {per_sec}",
    )?);
    bar.enable_steady_tick(Duration::from_millis(100));
    let load = Load::begin(mesh.shop.sidecar, &book, options, MOST_PAGES, &bar);
    let going = Going { load, bar, options };
    going.bar.suspend(|| {
        say("\nWhile pages go on being loaded:\n");
        EDITS.say(EDITS.0);
    });
    let start = Reading::take(mesh, &going.load.tally).await?;
    going.watch("as it is", None, &start, mesh).await?;
    for edit in [SMALLER, SMALLER.back(), SHADOW, SHADOW.back()] {
        let took = going.edit(edit, mesh).await?;
        verdict.slowest = verdict.slowest.max(took);
    }
    (verdict.back_after, verdict.sent_again) = going.outage(mesh).await?;
    let now = Reading::take(mesh, &going.load.tally).await?;
    verdict.failed_calls = now.failed_calls;
    let (tally, _) = going.load.end().await?;
    going.bar.finish_and_clear();
    verdict.count(&tally);
    say(&format!("\n{verdict}"));
    Ok(verdict)
}

/// Who is there.
async fn introduce(mesh: &Mesh) -> anyhow::Result<()> {
    say("A page shows 20 orders; the shop asks for each of them alone, then for the user of each.\n");
    for (name, member) in ["shop", "orders", "users"].into_iter().zip(mesh.members()) {
        let Member {
            service,
            sidecar,
            admin,
            ..
        } = member;
        say(&format!(
            "{name:<13}  http://{service}  sidecar http://{sidecar}  admin http://{admin}"
        ));
    }
    say(&format!("control plane  http://{}", mesh.plane.admin));
    say(&format!("documents      {}\n", mesh.documents.display()));
    let status = mesh.plane.status().await?;
    for policy in status["policies"].as_array().into_iter().flatten() {
        let text = |field: &str| policy[field].as_str().unwrap_or_default();
        say(&format!("{:<13}  {}", text("name"), text("text")));
    }
    Ok(())
}

/// The same pages without Jitney and through the mesh.
async fn compare(
    mesh: &Mesh,
    book: &Arc<Book>,
    options: Options,
    verdict: &mut Verdict,
) -> anyhow::Result<()> {
    say("");
    RUNS.say(RUNS.0);
    for (name, shop) in [
        ("without Jitney", mesh.direct),
        ("through the mesh", mesh.shop.sidecar),
    ] {
        let style = ProgressStyle::with_template("{msg:36} {wide_bar} {human_pos}/{human_len} pages")?;
        let bar = ProgressBar::new(options.pages() as u64).with_style(style);
        // The first pages wait for connections, which is not what is compared.
        let first = Load::begin(shop, book, options, options.first(), &ProgressBar::hidden());
        verdict.count(&first.over().await?.0);
        let before = Reading::take(mesh, &Tally::default()).await?;
        let load = Load::begin(
            shop,
            book,
            options,
            options.pages(),
            &bar.clone().with_message(name),
        );
        let (tally, took) = load.over().await?;
        bar.finish_and_clear();
        verdict.count(&tally);
        let seen = Reading::take(mesh, &tally).await?.since(&before);
        RUNS.say(&[
            name,
            &thousands(tally.pages() as u64),
            &thousands(seen.orders.rows + seen.users.rows),
            &thousands(seen.orders.calls + seen.users.calls),
            &seen.orders.mean_batch(),
            &seen.users.mean_batch(),
            &milliseconds(quantile(&took, 50)),
            &milliseconds(quantile(&took, 99)),
        ]);
    }
    Ok(())
}

/// Pages that go on being loaded.
struct Going {
    load: Load,
    bar: ProgressBar,
    options: Options,
}

impl Going {
    /// Waits for a while, and tells what happened since `before` in all and lately in the batches.
    async fn watch(
        &self,
        name: &str,
        took: Option<Duration>,
        before: &Reading,
        mesh: &Mesh,
    ) -> anyhow::Result<()> {
        self.bar.set_message(name.to_owned());
        let settled = Reading::take(mesh, &self.load.tally).await?;
        sleep(self.options.watched()).await;
        let now = Reading::take(mesh, &self.load.tally).await?;
        let (all, lately) = (now.since(before), now.since(&settled));
        ensure!(lately.pages > 0, "{name}: no page came any more");
        self.bar.suspend(|| {
            EDITS.say(&[
                name,
                &took.map(milliseconds).unwrap_or_default(),
                &thousands(all.pages as u64),
                &thousands(all.failed_calls),
                &lately.orders.mean_batch(),
                &lately.users.mean_batch(),
            ]);
        });
        Ok(())
    }

    /// Changes a policy on disk; the time from then until the control plane knows that every sidecar
    /// that is to run it does, and the sidecar shows it.
    async fn edit(&self, edit: Edit, mesh: &Mesh) -> anyhow::Result<Duration> {
        self.bar.set_message(edit.to_string());
        let before = Reading::take(mesh, &self.load.tally).await?;
        let generation = policy(mesh, edit).await?["generation"].as_u64();
        let start = Instant::now();
        edit.make(&mesh.documents)?;
        until(&format!("{edit} is live"), async || {
            let policy = policy(mesh, edit).await?;
            let is_known = policy["generation"].as_u64() > generation && is_programmed(&policy);
            Ok(is_known && shown(mesh, edit).await? == edit.to)
        })
        .await?;
        let took = start.elapsed();
        self.watch(&edit.to_string(), Some(took), &before, mesh).await?;
        Ok(took)
    }

    /// Kills the control plane and starts it again; how long it takes until each sidecar is back, and
    /// how many resources it has sent since.
    async fn outage(&self, mesh: &mut Mesh) -> anyhow::Result<(Duration, u64)> {
        ensure!(mesh.plane.resources_sent().await? > 0, "nothing was ever sent");
        let before = Reading::take(mesh, &self.load.tally).await?;
        mesh.plane.kill();
        for member in mesh.members() {
            until("a sidecar notices that the control plane is away", async || {
                let config: Value = json(member.admin, "/config").await?;
                Ok(config["controlPlane"]["connected"].is_null())
            })
            .await?;
        }
        self.watch("control plane killed", None, &before, mesh).await?;
        let (before, start) = (Reading::take(mesh, &self.load.tally).await?, Instant::now());
        mesh.plane.start().await?;
        mesh.programmed().await?;
        let took = start.elapsed();
        self.watch("control plane started again", None, &before, mesh)
            .await?;
        Ok((took, mesh.plane.resources_sent().await?))
    }
}

/// What the control plane says of the policy that is edited.
async fn policy(mesh: &Mesh, edit: Edit) -> anyhow::Result<Value> {
    let mut status = mesh.plane.status().await?;
    let policies = status["policies"].as_array_mut().context("policies")?;
    let found = policies.iter_mut().find(|policy| policy["name"] == edit.policy);
    Ok(found.context(edit.policy)?.take())
}

/// What the sidecar shows of the field that is edited.
async fn shown(mesh: &Mesh, edit: Edit) -> anyhow::Result<String> {
    let member = mesh.member(edit.policy);
    let config: Value = json(member.admin, "/config").await?;
    let documents = config["policy"]["effective"]["documents"].as_array();
    let resources = documents
        .context("documents")?
        .iter()
        .map(|document| &document["resource"]);
    let mut policies = resources.filter(|resource| resource["kind"] == "BatchPolicy");
    let field = policies.find_map(|policy| policy["spec"].pointer(edit.pointer));
    let field = field.context(edit.pointer)?;
    Ok(field.as_str().map_or_else(|| field.to_string(), str::to_owned))
}

/// The names of a table's columns.
struct Columns(&'static [&'static str]);

impl Columns {
    /// Prints a row.
    fn say(&self, cells: &[&str]) {
        let mut row = format!("{:<34}", cells[0]);
        for (cell, name) in cells[1..].iter().zip(&self.0[1..]) {
            row += &format!("  {cell:>width$}", width = name.len().max(7));
        }
        say(&row);
    }
}

const RUNS: Columns = Columns(&[
    "",
    "pages",
    "calls",
    "upstream calls",
    "batch of orders",
    "of users",
    "page p50",
    "page p99",
]);

const EDITS: Columns = Columns(&[
    "",
    "live in",
    "pages",
    "failed calls",
    "batch of orders",
    "of users",
]);

const SMALLER: Edit = Edit {
    file: "users.yaml",
    policy: "shop/users",
    field: "maxSize",
    pointer: "/routes/0/batch/maxSize",
    from: "64",
    to: "4",
};

const SHADOW: Edit = Edit {
    file: "orders.yaml",
    policy: "shop/orders",
    field: "mode",
    pointer: "/mode",
    from: "Active",
    to: "Shadow",
};

/// However fast they come.
const MOST_PAGES: usize = 1_000_000;
