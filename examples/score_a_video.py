"""Score a video with a trained reward model, all at once and as a robot would: frame by frame.

python examples/score_a_video.py runs/mine clip.mp4
"""

import sys

import vidreward
from vidreward.jobs import open_like_training
from vidreward.scoring import StreamingScorer, score_episode


def main(run: str, video: str) -> None:
    """Print the score of each frame, higher is better; the goal is the video's last frame."""
    model = vidreward.load(run)
    episode = open_like_training(run, video)[0]  # frames sized, cropped and timed as in training
    scores = score_episode(model, episode)

    scorer = StreamingScorer(model, goal=episode.goal(), fps=episode.fps)
    for number, frame in enumerate(episode.all_frames()):  # uint8 RGB (3, H, W), as it comes from a camera
        print(f"frame {number:4d}  score {scores[number]:8.3f}  streamed {scorer.push(frame):8.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
