"""An external recommender, given by its ranked lists; a SASRec is trained to reproduce them."""

from delrec_lite.teacher_kinds.built_in.sasrec import KIND as SASREC
from delrec_lite.teacher_kinds.registry import TeacherKind

KIND = TeacherKind(
    name="external",
    label="external, stand-in",
    settings=SASREC.settings,
    network=SASREC.network,
    reads_lists=True,
)
