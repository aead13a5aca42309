//! Services of the callee's host as Debian ships them, and their own clients.

use jitney_tests::wait::until;
use jitney_tests::{Host, Process};

use super::hosts::{Mesh, output, told};

/// A service of the callee's host as Debian ships it, ended with the test.
pub(super) struct Service {
    process: Process,
    _folder: tempfile::TempDir,
}

impl Service {
    /// Runs `prepare` to its end and starts what `script` ends with, in a folder that everybody may use.
    async fn start(mesh: &Mesh, name: &'static str, prepare: &str, script: &str) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let shell = |script: &str| {
            let mut command = mesh.network.command_of_somebody(Host::B, "sh");
            command.args(["-ec", script]).env("DIR", folder.path());
            command
        };
        let prepared = output(shell(prepare)).await;
        assert!(prepared.status.success(), "{}", told(&prepared));
        Self {
            process: Process::run(name, shell(script)),
            _folder: folder,
        }
    }

    /// Waits until it says so; whatever the case.
    async fn says(&self, text: &str) {
        let says = || self.process.log().to_lowercase().contains(text);
        until(&format!("the service says {text:?}"), says).await;
    }
}

/// One of them, which is ready, and what its client is to be told.
pub(super) struct Served {
    _service: Service,
    /// The client, its arguments, and what it prints.
    asked: Vec<(&'static str, Vec<&'static str>, &'static str)>,
}

impl Served {
    /// The caller speaks first.
    pub(super) async fn redis(mesh: &Mesh) -> Self {
        let script = "exec redis-server --bind 0.0.0.0 --protected-mode no --save '' --dir $DIR";
        let service = Service::start(mesh, "redis", "", script).await;
        service.says("ready to accept connections").await;
        let set = vec!["-h", "10.77.0.2", "set", "jitney", "a shared taxi"];
        let get = vec!["-h", "10.77.0.2", "get", "jitney"];
        Self {
            _service: service,
            asked: vec![("redis-cli", set, "OK\n"), ("redis-cli", get, "a shared taxi\n")],
        }
    }

    pub(super) async fn postgresql(mesh: &Mesh) -> Self {
        let prepare = "bin=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1)
            $bin/initdb --auth=trust --username=jitney --no-sync --pgdata=$DIR/data
            echo 'host all all 10.77.0.0/24 trust' >> $DIR/data/pg_hba.conf";
        let script = "bin=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1)
            exec $bin/postgres -D $DIR/data -h 0.0.0.0 -k $DIR";
        let service = Service::start(mesh, "postgres", prepare, script).await;
        service
            .says("database system is ready to accept connections")
            .await;
        let select = "-h 10.77.0.2 -U jitney -d postgres -Atc";
        let select = select.split(' ').chain(["select 6 * 7"]).collect();
        Self {
            _service: service,
            asked: vec![("psql", select, "42\n")],
        }
    }

    /// The server speaks first, and its caller waits for that.
    pub(super) async fn mariadb(mesh: &Mesh) -> Self {
        let prepare = "mariadb-install-db --no-defaults --datadir=$DIR/data \
            --auth-root-authentication-method=normal";
        let script = "exec mariadbd --no-defaults --datadir=$DIR/data --socket=$DIR/socket \
            --bind-address=0.0.0.0 --skip-grant-tables --skip-networking=0";
        let service = Service::start(mesh, "mariadb", prepare, script).await;
        service.says("ready for connections").await;
        let select = "--no-defaults -h 10.77.0.2 -u root -Ne";
        let select = select.split(' ').chain(["select 6 * 7"]).collect();
        Self {
            _service: service,
            asked: vec![("mariadb", select, "42\n")],
        }
    }

    /// Has its client ask from the other host.
    pub(super) async fn answers(&self, mesh: &Mesh) {
        for (client, arguments, expected) in &self.asked {
            let said = mesh.call(client, arguments).await;
            assert_eq!(told(&said), *expected, "{client}");
        }
    }
}
