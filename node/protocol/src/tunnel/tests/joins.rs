//! How the tunnels of two owners become one, and how they do not.

use super::*;

#[test]
fn a_token_works_once_and_for_one_exit() {
    let mut net = Net::new(11, 8);
    let service = net.build(1, &[5, 6]);
    let first = net.build(0, &[2, 3]);
    let other_exit = net.build(0, &[3, 2]);
    let opener = net.join(&first, &service);
    let ask = |net: &mut Net, path: &Built, opener: &Opener| {
        let tunnel = net.open(path, opener);
        net.run();
        let events = net.take_events(0);
        events.into_iter().find_map(|event| match event {
            SwitchEvent::Answered { tunnel: of, answer } if of == tunnel => Some(answer),
            _ => None,
        })
    };
    assert_eq!(ask(&mut net, &other_exit, &opener), Some(Answer::Unknown));
    assert_eq!(ask(&mut net, &first, &opener), Some(Answer::Joined));
    assert_eq!(ask(&mut net, &first, &opener), Some(Answer::Unknown));
    // A token for another service, which this entry does not serve.
    let elsewhere = net.build(1, &[7]);
    let Opener::Join { token, .. } = net.join(&first, &elsewhere) else { unreachable!() };
    let wrong_entry = Opener::Join { entry: net.contact(6), token };
    assert_eq!(ask(&mut net, &first, &wrong_entry), Some(Answer::Unknown));
    // A node that nobody knows.
    let Opener::Join { mut entry, token } = net.join(&first, &service) else { unreachable!() };
    entry.id = crate::identity::NodeId::from_bytes([0xee; 32]);
    assert_eq!(ask(&mut net, &first, &Opener::Join { entry, token }), Some(Answer::Unreachable));
}

#[test]
fn an_exit_keeps_the_newest_cells_while_it_dials() {
    let (mut net, client, service) = two_paths(12, 2, 2);
    net.dial = false;
    let opener = net.join(&client, &service);
    let tunnel = net.open(&client, &opener);
    let count = CELLS_WHILE_DIALLING as u32 + 10;
    for number in 0..count {
        net.send(0, tunnel, &number.to_be_bytes());
    }
    net.run();
    net.dial = true;
    net.run();
    let events = net.take_events(1);
    let [SwitchEvent::Incoming { tunnel: visitor, .. }] = events[..] else { panic!("{events:?}") };
    let expected: Vec<Vec<u8>> = (10..count).map(|number| number.to_be_bytes().to_vec()).collect();
    assert_eq!(net.take_payloads(1, visitor), expected);
    exchange(&mut net, (0, tunnel), (1, visitor));
}

#[test]
fn a_tunnel_closed_while_its_exit_dials_never_joins() {
    let (mut net, client, service) = two_paths(13, 2, 2);
    net.dial = false;
    let opener = net.join(&client, &service);
    let tunnel = net.open(&client, &opener);
    net.send(0, tunnel, b"held");
    net.run();
    net.at(0, |switch, out| switch.close_tunnel(tunnel, out));
    net.run();
    net.assert_no_tunnels();
    net.dial = true;
    net.run();
    assert!(net.take_events(1).is_empty());
    net.assert_no_tunnels();
}

#[test]
fn a_datagram_stands_for_a_lost_answer() {
    let (mut net, client, service) = two_paths(14, 2, 2);
    let opener = net.join(&client, &service);
    let tunnel = net.open(&client, &opener);
    net.run_with(
        |_, to, cell| {
            if to == 0 && cell.command() == Ok(Command::Data) { Fate::Drop } else { Fate::Pass }
        },
    );
    assert!(net.take_events(0).is_empty());
    let events = net.take_events(1);
    let [SwitchEvent::Incoming { tunnel: visitor, .. }] = events[..] else { panic!("{events:?}") };
    exchange(&mut net, (0, tunnel), (1, visitor));
    assert_eq!(net.take_events(0), [SwitchEvent::Answered { tunnel, answer: Answer::Joined }]);
}

#[test]
fn a_cut_join_closes_the_tunnel_at_both_owners() {
    let (mut net, client, service) = two_paths(30, 2, 2);
    let (c, s) = net.connect(&client, &service);
    net.cut(3, 5);
    net.run();
    assert_eq!(net.take_events(0), [SwitchEvent::TunnelClosed { tunnel: c }]);
    assert_eq!(net.take_events(1), [SwitchEvent::TunnelClosed { tunnel: s }]);
    net.assert_no_tunnels();
    // The paths live on, over a new link.
    let (c, s) = net.connect(&client, &service);
    exchange(&mut net, (0, c), (1, s));
}

#[test]
fn a_link_lost_before_the_entry_answers_is_unreachable() {
    let (mut net, client, service) = two_paths(31, 2, 2);
    let opener = net.join(&client, &service);
    let tunnel = net.open(&client, &opener);
    net.run_with(|_, _, cell| if cell.command() == Ok(Command::Join) { Fate::Drop } else { Fate::Pass });
    net.cut(3, 5);
    net.run();
    assert_eq!(net.take_events(0), [SwitchEvent::Answered { tunnel, answer: Answer::Unreachable }]);
    net.assert_no_tunnels();
}
