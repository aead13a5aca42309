//! What a connection can call.

use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use jitney_api::push::ads::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use jitney_api::push::config::certificates_server::CertificatesServer;
use jitney_api::push::config::reports_server::ReportsServer;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service as _;

use super::caller::Gate;
use crate::certificates::Signer;
use crate::push::Push;
use crate::reports::Reporter;

type Ads = AggregatedDiscoveryServiceServer<Push<Gate>>;
type Certificates = CertificatesServer<Signer>;
type Reports = ReportsServer<Reporter>;

/// Every service.
#[derive(Clone, Debug)]
pub struct Routes {
    ads: Ads,
    certificates: Certificates,
    reports: Reports,
}

impl Routes {
    /// These services, with bounds on what they read.
    pub fn new(push: Push<Gate>, signer: Signer, reporter: Reporter) -> Self {
        Self {
            ads: Ads::from_arc(Arc::new(push)).max_decoding_message_size(ADS_MAX),
            certificates: Certificates::new(signer).max_decoding_message_size(SMALL_MAX),
            reports: Reports::new(reporter).max_decoding_message_size(SMALL_MAX),
        }
    }

    /// Answers one call.
    pub async fn answer(mut self, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().trim_start_matches('/');
        let service = path.split_once('/').map_or(path, |(service, _)| service);
        let Ok(response) = if service == Ads::NAME {
            self.ads.call(request).await
        } else if service == Certificates::NAME {
            self.certificates.call(request).await
        } else if service == Reports::NAME {
            self.reports.call(request).await
        } else {
            Ok(Status::unimplemented("no such service").into_http())
        };
        response
    }
}

/// Bytes of a request on the push: a sidecar that comes back says what it holds, a line a resource.
const ADS_MAX: usize = 4 << 20;
/// Bytes of a signing request or a report: a key and a token, or a name and two numbers.
const SMALL_MAX: usize = 64 << 10;
