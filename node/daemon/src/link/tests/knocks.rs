//! Knocks: is a node where it says?

use tokio::net::TcpListener;

use super::*;

async fn knock(at: &mut Node, contact: Contact) -> bool {
    at.links.knock(contact);
    match at.event().await {
        LinkEvent::Knocked { node, reached } => {
            assert_eq!(node, contact.id);
            reached
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_node_that_is_there_is_reached_with_and_without_a_link_and_gets_no_link_by_it() {
    let (mut a, mut b) = (node(1), node(2));
    assert!(knock(&mut a, b.contact).await);
    b.stays_quiet().await;
    link(&mut b, &mut a).await;
    assert!(knock(&mut a, b.contact).await);
    b.stays_quiet().await;
    assert_eq!((a.links.stats().len(), b.links.stats().len()), (1, 1));
}

#[tokio::test]
async fn nobody_and_somebody_else_are_not_the_node() {
    let (mut a, b) = (node(1), node(2));
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    assert!(!knock(&mut a, Contact { address: Some(free), ..b.contact }).await);
    assert!(!knock(&mut a, Contact { tls_keys: TlsKeys::one([9; 32]), ..b.contact }).await);
    assert!(!knock(&mut a, Contact::unlisted(b.contact.id)).await);
}

#[tokio::test]
async fn an_address_that_is_not_public_is_not_tried_where_there_are_no_others() {
    let mut a = start(LinkConfig { network: Network::public(), ..config(1) });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    assert!(!knock(&mut a, Contact::listed(secret(2).id(), address, TlsKeys::one([9; 32]))).await);
    let connected = timeout(Duration::from_millis(50), listener.accept()).await;
    assert!(connected.is_err(), "somebody came");
}
