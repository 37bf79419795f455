"""Attention of packed rows to segments of paged keys, merged by log-sum-exp."""
