"""The tiles of the synthetic BigEarthNet: real places of Sentinel-2's grid, acquisitions that never took place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A Sentinel-2 tile: `corner_m` is easting and northing of its upper left corner in its UTM zone (north).

    `scene` is the Sentinel-1 product, `s2_scene` the Sentinel-2 acquisition as version 1 writes it: the leading zero of
    the hour is dropped, and a second may be 60 or 61. `landscapes` are those that are met there, the first one surely.
    """

    name: str
    zone: int
    corner_m: tuple[int, int]
    landscapes: tuple[str, ...]
    scene: str
    s2_scene: str

    @property
    def projection(self) -> str:
        """Well-known text of the coordinate system, letter for letter as in the genuine files."""
        return _PROJECTION.format(zone=self.zone, meridian=6 * self.zone - 183, epsg=32600 + self.zone)


_PROJECTION = (
    'PROJCS["WGS 84 / UTM zone {zone}N",GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563,'
    'AUTHORITY["EPSG","7030"]],AUTHORITY["EPSG","6326"]],PRIMEM["Greenwich",0,AUTHORITY["EPSG","8901"]],'
    'UNIT["degree",0.0174532925199433,AUTHORITY["EPSG","9122"]],AXIS["Latitude",NORTH],AXIS["Longitude",EAST],'
    'AUTHORITY["EPSG","4326"]],PROJECTION["Transverse_Mercator"],PARAMETER["latitude_of_origin",0],'
    'PARAMETER["central_meridian",{meridian}],PARAMETER["scale_factor",0.9996],PARAMETER["false_easting",500000],'
    'PARAMETER["false_northing",0],UNIT["metre",1,AUTHORITY["EPSG","9001"]],AXIS["Easting",EAST],AXIS["Northing",NORTH],'
    'AUTHORITY["EPSG","{epsg}"]]'
)

TILES = (
    Tile(
        name="33UUP",
        zone=33,
        corner_m=(300000, 5400000),
        landscapes=("cropland", "woods", "town"),
        scene="S1A_IW_GRDH_1SDV_20170705T165112_20170705T165137_017338_01C927_6DDB",
        s2_scene="S2A_MSIL2A_20170706T101028",
    ),
    Tile(
        name="35VPK",
        zone=35,
        corner_m=(600000, 7000020),
        landscapes=("boreal", "bog", "cropland"),
        scene="S1A_IW_GRDH_1SDV_20170918T043801_20170918T043826_018425_01E5D0_EC83",
        s2_scene="S2B_MSIL2A_20170917T93027",
    ),
    Tile(
        name="29SND",
        zone=29,
        corner_m=(499980, 4400040),
        landscapes=("montado", "orchards"),
        scene="S1B_IW_GRDH_1SDV_20170805T183429_20170805T183454_006808_00B382_197B",
        s2_scene="S2A_MSIL2A_20170804T112118",
    ),
    Tile(
        name="29UPU",
        zone=29,
        corner_m=(600000, 5900040),
        landscapes=("pastoral", "bog", "town"),
        scene="S1A_IW_GRDH_1SDV_20170629T064733_20170629T064758_017245_01C6B3_576C",
        s2_scene="S2B_MSIL2A_20170628T113320",
    ),
    Tile(
        name="32TMT",
        zone=32,
        corner_m=(399960, 5300040),
        landscapes=("mountain", "woods", "pastoral"),
        scene="S1B_IW_GRDH_1SDV_20170824T054318_20170824T054343_007078_00BAA0_6AE0",
        s2_scene="S2A_MSIL2A_20170825T103060",
    ),
    Tile(
        name="31UFS",
        zone=31,
        corner_m=(600000, 5700000),
        landscapes=("town", "cropland", "pastoral"),
        scene="S1A_IW_GRDH_1SDV_20170616T173256_20170616T173321_017062_01C1E0_E011",
        s2_scene="S2B_MSIL2A_20170617T104021",
    ),
    Tile(
        name="34UEG",
        zone=34,
        corner_m=(499980, 6200040),
        landscapes=("woods", "cropland", "bog"),
        scene="S1B_IW_GRDH_1SDV_20170812T050237_20170812T050302_006902_00B5FC_52B9",
        s2_scene="S2A_MSIL2A_20170813T94161",
    ),
    Tile(
        name="29TNF",
        zone=29,
        corner_m=(499980, 4600020),
        landscapes=("coast", "orchards", "town"),
        scene="S1A_IW_GRDH_1SDV_20171004T184211_20171004T184236_018667_01EC32_6F04",
        s2_scene="S2A_MSIL2A_20171002T112112",
    ),
    Tile(
        name="34TDN",
        zone=34,
        corner_m=(399960, 4800000),
        landscapes=("orchards", "mountain", "cropland"),
        scene="S1B_IW_GRDH_1SDV_20170901T163905_20170901T163930_007201_00BDDE_B02F",
        s2_scene="S2B_MSIL2A_20170831T95030",
    ),
    Tile(
        name="34VEM",
        zone=34,
        corner_m=(499980, 6700020),
        landscapes=("sea", "boreal", "coast"),
        scene="S1A_IW_GRDH_1SDV_20170528T160344_20170528T160409_016784_01BA8C_D483",
        s2_scene="S2B_MSIL2A_20170527T94035",
    ),
    Tile(
        name="33UXP",
        zone=33,
        corner_m=(600000, 5400000),
        landscapes=("town", "cropland", "orchards"),
        scene="S1B_IW_GRDH_1SDV_20170722T050144_20170722T050209_006596_00ADEB_18F2",
        s2_scene="S2A_MSIL2A_20170723T95602",
    ),
    Tile(
        name="29UMV",
        zone=29,
        corner_m=(399960, 6000000),
        landscapes=("bog", "pastoral", "coast"),
        scene="S1A_IW_GRDH_1SDV_20170919T181530_20170919T181555_018448_01E66C_C7DE",
        s2_scene="S2B_MSIL2A_20170921T114349",
    ),
)
