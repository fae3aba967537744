use std::sync::Mutex;

use phantom_protocol::{
    crypto::{
        Key,
        proof::{RouteKey, Token},
    },
    tunnel::{Answer, HopInstall, Kind, Opener, OwnedHop, OwnedInstall, OwnerTunnelId, Side, SwitchEvent},
    wire::cell::PathId,
};
use tokio::sync::Notify;

use super::*;

const CELLS: u32 = 5_000;
/// Cells that are on their way at once: however long so few wait in a queue, none of them is dropped for it.
const UNDER_WAY: u32 = 8;

#[derive(Default)]
struct Received {
    numbers: Mutex<Vec<u32>>,
    news: Notify,
}

impl Inbox for Received {
    fn push(&self, _: Kind, payload: &[u8]) {
        let number = payload.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
        self.numbers.lock().unwrap().extend(number);
    }
    fn wake(&self) {
        self.news.notify_one();
    }
}

impl Received {
    /// Waits until this many cells have come.
    async fn until(&self, count: u32) {
        let come = async {
            while self.numbers.lock().unwrap().len() < count as usize {
                self.news.notified().await;
            }
        };
        timeout(PATIENCE, come).await.expect("cells that were sent");
    }
}

fn key(byte: u8) -> Key {
    Key::from_bytes([byte; 32])
}

fn hop(node: &Node, neighbours: [Option<(LinkId, PathId)>; 2], secret: Key, route_keys: Vec<RouteKey>) {
    let expires = node.clock.moment() + Duration::from_secs(3600);
    let install = HopInstall { neighbours, secret, route_keys, expires, idle: Duration::from_secs(900) };
    assert!(node.switch.install_hop(node.clock.moment(), install));
}

impl Node {
    async fn switch_event(&mut self) -> SwitchEvent {
        match self.event().await {
            LinkEvent::Switch(event) => event,
            other => panic!("{other:?}"),
        }
    }

    fn own(
        &self,
        link: LinkId,
        path: PathId,
        secrets: &[u8],
        accepts: bool,
    ) -> phantom_protocol::tunnel::OwnedPathId {
        let hops = secrets.iter().map(|byte| OwnedHop { secret: key(*byte), owner_side: Side::A }).collect();
        let now = self.clock.moment();
        let expires = now + Duration::from_secs(3600);
        let idle = Duration::from_secs(900);
        self.switch.install_owned(now, OwnedInstall { link, path, hops, accepts, expires, idle }).unwrap()
    }
}

/// client - relay - terminal - server: the terminal is exit for the client and entry for the server, so the cells also
/// pass its loop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_cells_cross_a_chain_of_links_in_order() {
    let (mut client, mut relay, mut terminal, mut server) = (node(1), node(2), node(3), node(4));
    let (client_relay, relay_client) = link(&mut client, &mut relay).await;
    let (relay_terminal, terminal_relay) = link(&mut relay, &mut terminal).await;
    let (server_terminal, terminal_server) = link(&mut server, &mut terminal).await;

    let mut rng = ChaCha20Rng::from_seed([9; 32]);
    let route_key = RouteKey::random(&mut rng);
    let token = Token::make(&mut rng, &route_key, &terminal.id(), &terminal.id());
    let [p1, p2, p3] = [1, 2, 3].map(PathId::new);
    hop(&relay, [Some((relay_client, p1)), Some((relay_terminal, p2))], key(1), vec![]);
    hop(&terminal, [Some((terminal_relay, p2)), None], key(2), vec![]);
    hop(&terminal, [Some((terminal_server, p3)), None], key(3), vec![route_key]);
    let out = client.own(client_relay, p1, &[1, 2], false);
    server.own(server_terminal, p3, &[3], true);

    let opener = Opener::Join { entry: terminal.contact, token };
    let now = client.clock.moment();
    let tunnel = client.switch.open_tunnel(now, out, &opener, &mut client.links.outlet()).unwrap();
    send(&client, tunnel, 0);
    let SwitchEvent::Incoming { tunnel: incoming, .. } = server.switch_event().await else { panic!() };
    assert_eq!(client.switch_event().await, SwitchEvent::Answered { tunnel, answer: Answer::Joined });

    let inbox = Arc::new(Received::default());
    server.links.register_inbox(incoming, Arc::clone(&inbox) as Arc<dyn Inbox>);
    for number in 1..CELLS {
        inbox.until((number + 1).saturating_sub(UNDER_WAY)).await;
        send(&client, tunnel, number);
    }
    inbox.until(CELLS).await;
    assert!(inbox.numbers.lock().unwrap().iter().copied().eq(0..CELLS));

    let carried =
        |node: &Node| node.links.stats().iter().filter(|link| link.data_in >= u64::from(CELLS)).count();
    assert_eq!([&client, &relay, &terminal, &server].map(carried), [0, 1, 1, 1]);
}

/// Sends one numbered cell.
fn send(client: &Node, tunnel: OwnerTunnelId, number: u32) {
    let mut outlet = client.links.outlet();
    assert!(client.switch.send(tunnel, Kind::Plain, &number.to_be_bytes(), &mut outlet));
}
