//! A claim, on each version of the server. Shared with `tests/update`.

/// Makes one test of each claim and each version: `verdicts::the_claim::on_15`.
macro_rules! on_each_version {
    ($($claim:ident),+ $(,)?) => {
        $(mod $claim {
            #[tokio::test]
            async fn on_13() {
                super::$claim(13).await;
            }
            #[tokio::test]
            async fn on_15() {
                super::$claim(15).await;
            }
            #[tokio::test]
            async fn on_18() {
                super::$claim(18).await;
            }
        })+
    };
}
pub(crate) use on_each_version;
