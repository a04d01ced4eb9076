//! The body of an upload on its way: counted, and held back where there is a limit.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_runtime_api::client::interceptors::context::BeforeTransmitInterceptorContextMut;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::store::limits::Unit;
use crate::store::traffic::{Traffic, Waiting};

/// Takes the place of the body when the request is signed and about to be sent.
#[derive(Debug)]
pub(super) struct Pacing {
    traffic: Arc<Traffic>,
    waiting: Arc<Waiting>,
}

impl Pacing {
    pub(super) fn new(traffic: &Arc<Traffic>, waiting: Arc<Waiting>) -> Pacing {
        Pacing { traffic: traffic.clone(), waiting }
    }
}

impl Intercept for Pacing {
    fn name(&self) -> &'static str {
        "Pacing"
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let body = context.request_mut().take_body();
        let paced = Paced {
            inner: body,
            left: Bytes::new(),
            traffic: self.traffic.clone(),
            waiting: self.waiting.clone(),
            turn: Mutex::default(),
        };
        *context.request_mut().body_mut() = SdkBody::from_body_1_x(paced);
        Ok(())
    }
}

type Turn = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A body that goes piece by piece, each in its turn.
struct Paced {
    inner: SdkBody,
    /// Came out of `inner` and has not gone yet.
    left: Bytes,
    traffic: Arc<Traffic>,
    waiting: Arc<Waiting>,
    /// What the next piece waits for, and its length. The lock is never taken: a body must be `Sync`, and a wait is not.
    turn: Mutex<Option<(Turn, usize)>>,
}

impl fmt::Debug for Paced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Paced").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        while self.left.is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.left = data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
            }
        }
        let this = &mut *self;
        let next = this.turn.get_mut().unwrap_or_else(PoisonError::into_inner);
        let (turn, piece) = next.get_or_insert_with(|| {
            let piece = usize::try_from(this.traffic.piece(Unit::Upload)).unwrap_or(usize::MAX).min(this.left.len());
            let (traffic, waiting) = (this.traffic.clone(), this.waiting.clone());
            let turn = async move { traffic.moved(Unit::Upload, piece as u64, Some(&waiting)).await };
            (Box::pin(turn), piece)
        });
        ready!(turn.as_mut().poll(cx));
        let piece = *piece;
        *next = None;
        Poll::Ready(Some(Ok(Frame::data(this.left.split_to(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty() && self.inner.is_end_stream()
    }

    /// The length in the header is signed; this is the same.
    fn size_hint(&self) -> SizeHint {
        let left = self.left.len() as u64;
        let inner = http_body::Body::size_hint(&self.inner);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(left));
        if let Some(upper) = inner.upper().and_then(|upper| upper.checked_add(left)) {
            hint.set_upper(upper);
        }
        hint
    }
}
