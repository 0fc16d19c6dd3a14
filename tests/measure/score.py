"""Time of reading a set and detections and scoring them under both protocols: ``python tests/measure/score.py ROOT``.

ROOT is what ``make_coco.py`` wrote. The seconds of imports, annotations, detections, scores, and of all of them.
"""

import sys
import time


def main(root: str) -> None:
    times = [time.perf_counter()]
    from detection.config import DataSettings, MetricSettings  # the imports are part of what a user waits for
    from detection.data import read_annotations
    from detection.evaluation.result_files import read_detections
    from detection.evaluation.scores import score

    times.append(time.perf_counter())
    data = DataSettings(format="coco", root=root, train="val", val="val")
    annotations = read_annotations(data, "val", pictures=False)
    times.append(time.perf_counter())
    detections = read_detections(f"{root}/detections.json", annotations)
    times.append(time.perf_counter())
    scores = score(detections, annotations, MetricSettings())
    times.append(time.perf_counter())
    parts = zip(("imports", "annotations", "detections", "scores"), times, times[1:], strict=False)
    told = ", ".join(f"{name} {end - start:.2f} s" for name, start, end in parts)
    print(f"{told}, in all {times[-1] - times[0]:.2f} s; COCO AP {scores.coco.summary['COCO AP']:.4f}")


if __name__ == "__main__":
    main(sys.argv[1])
