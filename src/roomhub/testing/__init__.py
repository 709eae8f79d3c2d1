"""What tests of roomhub, of programs that embed it and of other people's transports need."""

from roomhub.testing.clock import ManualClock as ManualClock
