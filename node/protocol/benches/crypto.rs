//! What the cryptography of a cell, a slot and a token costs. `cargo bench -p phantom-protocol --bench crypto`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use phantom_protocol::{
    crypto::{
        Key,
        datagram::{SessionSecret, Speaker},
        proof::{RouteKey, Token},
        seal::{PathSecret, aead_seal, stream_xor},
        wide_block::{Chain, Direction, Mode, Pass, WideBlock, tweak},
    },
    identity::{ApSecret, NodeId},
    limits::{ACCEPTING_PATHS, ARRAY, DATAGRAM, SLOT},
    wire::cell::BODY,
};
use rand::{SeedableRng, rngs::ChaCha20Rng};

fn rng() -> ChaCha20Rng {
    ChaCha20Rng::from_seed([1; 32])
}

fn wide_block(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wide block");
    let hop = WideBlock::new(&[1; 32]);
    let tweak = tweak(Direction::AtoB, 1);
    let mut body = [0; BODY];
    group.bench_function("new", |bencher| bencher.iter(|| WideBlock::new(black_box(&[1; 32]))));
    group.throughput(Throughput::Bytes(BODY as u64));
    group.bench_function("encipher", |bencher| bencher.iter(|| hop.encipher(&tweak, black_box(&mut body))));
    group.bench_function("decipher", |bencher| bencher.iter(|| hop.decipher(&tweak, black_box(&mut body))));
    let pass = Pass::new(&hop, Mode::Encipher, tweak);
    group.bench_function("three layers of a body", |bencher| {
        bencher.iter(|| Chain::default().turn([pass; 3].into_iter(), black_box(&mut body), None));
    });
    let mut bodies = [[0; BODY]; 16];
    group.bench_function("sixteen bodies", |bencher| {
        bencher.iter(|| {
            let mut chain = Chain::default();
            for place in 0..bodies.len() {
                let (done, rest) = bodies.split_at_mut(place + 1);
                let next = rest.first().map(|body| (pass, body));
                done.last_mut().into_iter().for_each(|body| chain.turn([pass].into_iter(), body, next));
            }
        });
    });
    let reference = hctr2_rs::Hctr2_256::new(&[1; 32]);
    let mut to = [0; BODY];
    group.bench_function("hctr2-rs", |bencher| {
        bencher.iter(|| reference.encrypt(black_box(&body), &tweak, black_box(&mut to)))
    });
    group.finish();
}

fn seal(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("seal");
    let mut rng = rng();
    let secret = PathSecret::generate(&mut rng);
    let public = secret.public().clone();
    group.bench_function("encapsulate", |bencher| bencher.iter(|| public.encapsulate(&mut rng)));
    if let Some((ciphertext, _)) = public.encapsulate(&mut rng) {
        group.bench_function("decapsulate", |bencher| {
            bencher.iter(|| secret.decapsulate(black_box(&ciphertext)))
        });
    }
    let key = Key::random(&mut rng);
    let mut slot = [0; SLOT];
    group.bench_function("slot", |bencher| bencher.iter(|| aead_seal(&key, black_box(&mut slot))));
    let mut array = vec![0; ARRAY];
    group.bench_function("array stream", |bencher| bencher.iter(|| stream_xor(&key, black_box(&mut array))));
    let session = SessionSecret::random(&mut rng);
    let mut out = Vec::with_capacity(2 * DATAGRAM);
    group.bench_function("datagram", |bencher| {
        bencher.iter(|| {
            out.clear();
            session.seal(&mut rng, Speaker::Client, black_box(&[0; DATAGRAM]), &mut out);
        })
    });
    group.finish();
}

fn token(criterion: &mut Criterion) {
    let mut rng = rng();
    let (exit, entry) = (NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]));
    let keys: Vec<RouteKey> = (0..ACCEPTING_PATHS).map(|_| RouteKey::random(&mut rng)).collect();
    let stranger = RouteKey::random(&mut rng);
    let token = Token::make(&mut rng, &stranger, &exit, &entry);
    criterion.bench_function("token against every accepting path", |bencher| {
        bencher.iter(|| keys.iter().any(|key| key.accepts(black_box(&token), &exit, &entry)))
    });
}

fn blinding(criterion: &mut Criterion) {
    use phantom_protocol::crypto::blind::{BlindedPublic, BlindedSecret};
    let secret = ApSecret::generate(&mut rng());
    let public = secret.public();
    let blinded = BlindedSecret::of(&secret, 1);
    let signature = blinded.sign(b"entry");
    criterion.bench_function("blind a public key", |bencher| {
        bencher.iter(|| BlindedPublic::of(black_box(&public), 1))
    });
    criterion.bench_function("check a stranger's blinded key and signature", |bencher| {
        bencher.iter(|| {
            BlindedPublic::from_bytes(*blinded.public().as_bytes())
                .is_some_and(|key| key.verify(b"entry", black_box(&signature)))
        })
    });
}

criterion_group!(benches, wide_block, seal, token, blinding);
criterion_main!(benches);
