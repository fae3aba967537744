//! From a question on the wire to a response: looks up, and says no in the right way.
//!
//! A name that exists without the wanted record is NODATA, one that does not exist NXDOMAIN, both with the zone's SOA; a
//! look-up that fails is SERVFAIL; everything that is not a question about the zone is REFUSED.

use std::{future::Future, pin::Pin};

use hickory_proto::{
    op::{Edns, Metadata, OpCode, ResponseCode},
    rr::{DNSClass, Record},
};
use hickory_server::{
    net::runtime::Time,
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};

use crate::{
    Lookup, NoAnswer,
    zone::{self, Subject},
};

/// The largest UDP response that we offer to send: one that no path fragments.
const UDP_RESPONSE: u16 = 1_232;

/// The zone over somebody's look-ups.
pub(crate) struct Zone<L> {
    lookup: L,
}

/// What a response says.
struct Answer {
    code: ResponseCode,
    records: Vec<Record>,
    authority: Option<Record>,
}

impl Answer {
    fn refused() -> Answer {
        Answer { code: ResponseCode::Refused, records: Vec::new(), authority: None }
    }

    fn failed() -> Answer {
        Answer { code: ResponseCode::ServFail, records: Vec::new(), authority: None }
    }

    fn no_such_name() -> Answer {
        Answer { code: ResponseCode::NXDomain, records: Vec::new(), authority: Some(zone::authority()) }
    }

    fn of(records: Vec<Record>) -> Answer {
        let authority = records.is_empty().then(zone::authority);
        Answer { code: ResponseCode::NoError, records, authority }
    }
}

impl<L: Lookup> Zone<L> {
    pub(crate) fn new(lookup: L) -> Zone<L> {
        Zone { lookup }
    }

    async fn answer(&self, request: &Request) -> Answer {
        if request.metadata.op_code != OpCode::Query {
            return Answer::refused();
        }
        let Ok(info) = request.request_info() else { return Answer::refused() };
        let question = info.query.original();
        if question.query_class() != DNSClass::IN {
            return Answer::refused();
        }
        let (name, wanted) = (question.name(), question.query_type());
        let records = match Subject::of(name) {
            Subject::Foreign => return Answer::refused(),
            Subject::Apex => Ok(zone::apex_records(wanted)),
            Subject::Host(host) => {
                self.lookup.lookup(&host).await.map(|found| zone::host_records(name, wanted, &found))
            }
            Subject::Address(address) => {
                self.lookup.reverse(address).await.map(|host| zone::address_records(name, wanted, &host))
            }
        };
        match records {
            Ok(records) => Answer::of(records),
            Err(NoAnswer::NoSuchName) => Answer::no_such_name(),
            Err(NoAnswer::Failed) => Answer::failed(),
        }
    }

    async fn respond(&self, request: &Request, mut out: impl ResponseHandler) -> ResponseInfo {
        let answer = self.answer(request).await;
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = answer.code;
        metadata.authoritative = matches!(answer.code, ResponseCode::NoError | ResponseCode::NXDomain);
        // EDNS in the question asks for EDNS in the response; the library leaves that to us.
        let edns = request.edns.as_ref().map(response_edns);
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let response = builder.build(metadata, &answer.records, [], &answer.authority, []);
        out.send_response(response).await.unwrap_or_else(|error| {
            tracing::debug!(%error, "a client did not take its answer");
            ResponseInfo::from(hickory_proto::op::Header { metadata, counts: Default::default() })
        })
    }
}

fn response_edns(asked: &Edns) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_RESPONSE).set_dnssec_ok(asked.flags().dnssec_ok).set_version(0);
    edns
}

impl<L: Lookup> RequestHandler for Zone<L> {
    // The trait is made by a macro; this is its signature written out.
    fn handle_request<'a, 'b, 'c, R, T>(
        &'a self,
        request: &'b Request,
        out: R,
    ) -> Pin<Box<dyn Future<Output = ResponseInfo> + Send + 'c>>
    where
        R: ResponseHandler + 'c,
        T: Time + 'c,
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        Box::pin(self.respond(request, out))
    }
}
