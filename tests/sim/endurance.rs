//! A day in the life of a network: paths end and are replaced, records are renewed, memory stays bounded.

use std::time::Instant;

use phantom_protocol::{limits::TUNNELS_PER_PATH, node::Holdings, time::UnixTime};

use crate::{
    network::Place,
    whole::{Plan, World},
};

const NODES: usize = 14;
const SERVICE: usize = 1;

/// `PHANTOM_SIM_HOURS=72` for a longer run.
#[test]
fn pools_and_names_outlive_their_paths_and_memory_stays_bounded() {
    let hours = std::env::var("PHANTOM_SIM_HOURS").ok().and_then(|hours| hours.parse().ok()).unwrap_or(24u64);
    let begun = Instant::now();
    let mut world = World::new(Plan::of(NODES, 601));
    let (id, secret) = world.service(SERVICE, 7, 3);
    let client = world.join(NODES, 2).0;
    world.run(60);
    let first: Vec<_> = world.member(SERVICE).node.paths().map(|(path, _)| path).collect();
    let mut ticket = 0;
    for hour in 0..hours {
        world.run(3_300);
        ticket += 10;
        world.reach(client, secret.public(), ticket, vec![], 3);
        world.run(240);
        let now = world.net.now(Place(client)).unix;
        assert!(world.member(client).node.knows(&secret.public(), UnixTime(now.0 + 3_600)));
        for (place, member) in world.net.nodes() {
            let holdings = member.node.holdings();
            assert_eq!(member.node.known_nodes(), NODES, "hour {hour}");
            assert!(holdings.setups < 40 && holdings.awaited == 0, "hour {hour}, {place:?}: {holdings:?}");
            let [paths, _, tunnels, ..] = member.switch.sizes();
            assert!(paths < 60 && tunnels < TUNNELS_PER_PATH, "hour {hour}, {place:?}: {paths}, {tunnels}");
        }
        assert!(world.member(SERVICE).node.entries(id) >= 3, "hour {hour}");
        assert!(world.member(client).node.holdings().paths >= 2, "hour {hour}");
    }
    let now = world.member(SERVICE).node.paths().map(|(path, _)| path).collect::<Vec<_>>();
    assert!(hours < 6 || now.iter().all(|path| !first.contains(path)), "no path lives as long as that");
    let built = world.member(SERVICE).node.build_stats().clone();
    println!(
        "{hours} h in {:?}: the service has built {} paths, {} circles failed; published {} times",
        begun.elapsed(),
        built.succeeded,
        built.failed,
        world.member(SERVICE).seen.published.len()
    );

    world.at(SERVICE, |member, now| member.act(now, |node, out| node.handle_unhost(now, id, out)));
    world.net.crash(Place(client));
    world.run(400);
    for (place, member) in world.net.nodes() {
        assert_eq!(member.switch.sizes(), [0; 7], "{place:?}");
        // The dead client is still dialled now and then, to exchange records.
        let holdings = Holdings { awaited: 0, ..member.node.holdings() };
        assert_eq!(holdings, Holdings::default(), "{place:?}");
    }
}
