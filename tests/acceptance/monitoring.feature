Feature: Predictions measured against what they used to be, and what really happened
  The desk acts on predicted fails every morning. It has to notice when the trades are no longer those the model
  knows, and when its warnings no longer come true, although outcomes arrive days later.

  Background:
    Given a desk whose first 500 trades are what its model is compared with
    And the morning of 2 November brings 500 ordinary trades

  Scenario: A quiet morning is no drift
    When the morning of 3 November brings 600 ordinary trades
    And the desk measures on 5 November
    Then nothing has drifted on 3 November

  Scenario: Amounts that move by one standard deviation are drift, whatever one wild trade says
    When the morning of 3 November brings 600 trades whose amounts are larger by one standard deviation, one of them wild
    And the desk measures on 5 November
    Then "amount" has drifted on 3 November
    And "lots" has not drifted on 3 November

  Scenario: One wild trade alone is no drift
    When the morning of 3 November brings 600 ordinary trades, one of them wild
    And the desk measures on 5 November
    Then "amount" has not drifted on 3 November

  Scenario: A figure is provisional until the outcomes are in, and what was known before stays known
    When the outcomes of a third of the trades of 2 November arrive on 3 November
    And the desk measures on 5 November
    Then the AUC of 2 November is provisional
    When the other outcomes of 2 November arrive on 6 November
    And the desk measures on 8 November
    Then the AUC of 2 November rests on 500 outcomes
    And as known on 5 November the AUC of 2 November is provisional

  Scenario: Warnings that no longer come true are a breach
    When the morning of 3 November brings 600 ordinary trades
    And on 4 November the outcomes of 3 November turn out as chance would have them
    And the desk measures on 5 November
    Then the AUC of 3 November is a breach of the desk's floor of 0.6

  Scenario: Measuring again without news adds nothing
    When the desk measures on 5 November
    And the desk measures on 5 November
    Then each figure of 2 November is there once
