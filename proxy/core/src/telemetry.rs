//! Where a request's time goes: phases, histograms that keep their sums, the timing header.
