"""Stress: how a fitted model behaves when the radar, its processor or its user does what radars do."""
