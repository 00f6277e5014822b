// The entry: starts what every page has.
import { startActions } from "./actions.js";
import { startFrame } from "./frame.js";
import { startLive } from "./live.js";
import { startRerun } from "./rerun.js";
import { keepTime } from "./times.js";

keepTime();
startFrame();
startActions();
startRerun();
startLive();
